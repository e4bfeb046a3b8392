"""Recurrent layers are written out step by step: the gradient oracle, conservation, and their definition by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from tests.helpers.models import CLASSES, Lambda, distance, gradient, seeded

# Of torch.export, about the copy that is exported; relprop silences it, and pytest does not know.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attribute", "ignore:LSTM with projections")

INPUT, HIDDEN, STEPS = 5, 8, 3


def average(m: Any, x: Tensor) -> Tensor:
    """Classify the mean of all outputs."""
    return m.head(m.layer(x)[0].mean(1))


def turned(m: Any, x: Tensor) -> Tensor:
    """Classify the mean of all outputs of a layer that has the sequence in front."""
    return m.head(m.layer(x.transpose(0, 1))[0].mean(0))


def everything(m: Any, x: Tensor) -> Tensor:
    """Classify the mean of all outputs and the final states of all layers and directions."""
    outputs, states = m.layer(x)
    states = states if isinstance(states, tuple) else (states,)
    return m.head(torch.cat([outputs.mean(1), *(part for state in states for part in state)], -1))


def one_by_one(m: Any, x: Tensor) -> Tensor:
    """Classify what a cell makes of a sequence."""
    state = None
    for given in x.unbind(1):
        state = m.layer(given, state)
    return m.head(state[0] if isinstance(state, tuple) else state)


FIRST = {"batch_first": True}
KINDS: dict[str, tuple[Callable[..., Tensor], Callable[[], nn.Module], int]] = {
    "lstm": (average, lambda: nn.LSTM(INPUT, HIDDEN, **FIRST), HIDDEN),
    "lstm-deep": (everything, lambda: nn.LSTM(INPUT, HIDDEN, 2, bidirectional=True, **FIRST), 10 * HIDDEN),
    "lstm-sequence-first": (turned, lambda: nn.LSTM(INPUT, HIDDEN, bidirectional=True), 2 * HIDDEN),
    "lstm-projected": (average, lambda: nn.LSTM(INPUT, HIDDEN, proj_size=6, **FIRST), 6),
    "lstm-projected-no-bias": (average, lambda: nn.LSTM(INPUT, HIDDEN, proj_size=6, bias=False, **FIRST), 6),
    "lstm-cell": (one_by_one, lambda: nn.LSTMCell(INPUT, HIDDEN), HIDDEN),
    "gru": (average, lambda: nn.GRU(INPUT, HIDDEN, **FIRST), HIDDEN),
    "gru-deep": (everything, lambda: nn.GRU(INPUT, HIDDEN, 2, bidirectional=True, **FIRST), 6 * HIDDEN),
    "gru-cell": (one_by_one, lambda: nn.GRUCell(INPUT, HIDDEN, bias=False), HIDDEN),
    "rnn-tanh": (average, lambda: nn.RNN(INPUT, HIDDEN, bidirectional=True, **FIRST), 2 * HIDDEN),
    "rnn-relu": (average, lambda: nn.RNN(INPUT, HIDDEN, nonlinearity="relu", bias=False, **FIRST), HIDDEN),
    "rnn-tanh-cell": (one_by_one, lambda: nn.RNNCell(INPUT, HIDDEN), HIDDEN),
    "rnn-relu-cell": (one_by_one, lambda: nn.RNNCell(INPUT, HIDDEN, nonlinearity="relu"), HIDDEN),
}


def sequences(samples: int) -> Tensor:
    return torch.randn(samples, STEPS, INPUT, generator=torch.Generator().manual_seed(1))


def make(kind: str) -> nn.Module:
    forward, layer, width = KINDS[kind]
    return seeded(lambda: Lambda(forward, layer=layer(), head=nn.Linear(width, CLASSES)))


@pytest.mark.sweep(every=13)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_oracle_and_conservation(kind: str) -> None:
    model = make(kind)
    exact = relprop.Explainer(model.double(), rules="gradient")
    for samples in (1, 2):
        x = sequences(samples).double()
        assert distance(exact(x).relevance, gradient(model, x)) <= 1e-12
    explainer = relprop.Explainer(model.float(), contrast=None)
    for samples in (1, 2):
        e = explainer(sequences(samples))
        assert e.relevance.isfinite().all()
        assert e.relevance.abs().sum() > 0
        assert e.conservation.error <= 1e-5
        torch.testing.assert_close(e.relevance.sum((1, 2)) + lost(e), torch.ones(samples))


def lost(e: relprop.Explanation) -> Tensor:
    return sum((cut.lost[0] for cut in e.conservation.cuts), torch.zeros(()))


def projected(m: Any, x: Tensor, which: str, gates: int) -> tuple[Tensor, ...]:
    """Return a linear layer's output for each of the gates."""
    weight, bias = (getattr(m.layer, f"{name}_{which}_l0") for name in ("weight", "bias"))
    return nn.functional.linear(x, weight, bias).unflatten(-1, (gates, HIDDEN)).unbind(-2)


def lstm_by_hand(m: Any, x: Tensor) -> Tensor:
    """``nn.LSTM`` as its documentation has it."""
    hidden = memory = x.new_zeros(x.shape[0], HIDDEN)
    given, outputs = projected(m, x, "ih", 4), []
    for t in range(STEPS):
        i, f, g, o = (a[:, t] + b for a, b in zip(given, projected(m, hidden, "hh", 4), strict=True))
        memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(memory)
        outputs.append(hidden)
    return m.head(torch.stack(outputs, 1).mean(1))


def gru_by_hand(m: Any, x: Tensor) -> Tensor:
    """``nn.GRU`` as its documentation has it, but for ``1 - z``, which is the sigmoid of the opposite."""
    hidden = x.new_zeros(x.shape[0], HIDDEN)
    (r_x, z_x, n_x), outputs = projected(m, x, "ih", 3), []
    for t in range(STEPS):
        r_h, z_h, n_h = projected(m, hidden, "hh", 3)
        new = torch.tanh(n_x[:, t] + torch.sigmoid(r_x[:, t] + r_h) * n_h)
        z = z_x[:, t] + z_h
        hidden = torch.sigmoid(-z) * new + torch.sigmoid(z) * hidden
        outputs.append(hidden)
    return m.head(torch.stack(outputs, 1).mean(1))


@pytest.mark.sweep(every=8)
@pytest.mark.parametrize("rules", ["lrp-0", "epsilon", "alpha-beta", "attnlrp"])
@pytest.mark.parametrize(("kind", "by_hand"), [("lstm", lstm_by_hand), ("gru", gru_by_hand)])
def test_a_layer_is_what_its_definition_is(kind: str, by_hand: Callable[..., Tensor], rules: str) -> None:
    """These rules look at each entry of the output alone, so it does not matter which gates are computed together."""
    layer = make(kind).double()
    hand = Lambda(by_hand, layer=layer.layer, head=layer.head).eval()
    x = sequences(2).double()
    torch.testing.assert_close(hand(x), layer(x))
    expected = relprop.explain(hand, x, rules=rules).relevance
    assert distance(relprop.explain(layer, x, rules=rules).relevance, expected) <= 1e-10


@pytest.mark.full
def test_the_model_keeps_its_weights() -> None:
    """These layers hold their weights twice: as parameters, and in a list that export writes to."""
    model = make("lstm-deep")
    relprop.explain(model, sequences(2))
    assert all(a is b for a, b in zip(model.layer._flat_weights, model.layer.parameters(), strict=True))


@pytest.mark.full
def test_relevance_at_the_layer() -> None:
    e = relprop.explain(make("lstm"), sequences(2), layers=["layer"], contrast=None)
    assert e.layers["layer"].shape == (2, STEPS, HIDDEN)
    torch.testing.assert_close(e.layers["layer"].sum((1, 2)), torch.ones(2))


def test_a_sequence_of_samples_is_refused_with_the_cause() -> None:
    forward, _, width = KINDS["lstm"]
    model = seeded(lambda: Lambda(forward, layer=nn.LSTM(INPUT, HIDDEN), head=nn.Linear(width, CLASSES)))
    with pytest.raises(relprop.CaptureError, match="without batch_first=True"):
        relprop.explain(model, sequences(2))


@pytest.mark.full
def test_an_exported_layer_that_drops_values_out_is_refused() -> None:
    forward, _, width = KINDS["lstm"]
    layer = nn.LSTM(INPUT, HIDDEN, 2, dropout=0.5, batch_first=True)
    model = Lambda(forward, layer=layer, head=nn.Linear(width, CLASSES)).train()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (sequences(2),), dynamic_shapes={"args": ({0: batch},)}, strict=False)
    with pytest.raises(relprop.CaptureError, match="exported in training mode"):
        relprop.explain(program, sequences(2))
