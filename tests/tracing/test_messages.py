"""Errors name the cause, its place in the user's source, and what to do; they blame the model for nothing of ours."""

from __future__ import annotations

import threading
from collections import UserDict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import relprop
from relprop import CaptureError, InputError
from tests.helpers.models import CLASSES, Lambda, Plain, pictures, seeded


def classify(x: Tensor) -> Tensor:
    return x


NO_MODELS: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"the model is None: .* return nothing"),
    "a class": (Plain, r"the class Plain, .*Plain\(\.\.\.\)\.eval\(\)"),
    "a method": (seeded(Plain).forward, r"the method forward of a Plain: pass the Plain itself"),
    "a function": (classify, r"the function classify, .*nn\.Module"),
    "a lambda": (lambda x: x, r"the function <lambda>, .*nn\.Module"),
    "a partial": (partial(classify), r"the partial of classify, .*nn\.Module"),
    "a state dict": (seeded(Plain).state_dict(), r"OrderedDict with 6 entries; .*load_state_dict"),
    "a number": (3, r"the model is a int: pass an nn\.Module"),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_what_is_no_model(kind: str) -> None:
    model, message = NO_MODELS[kind]
    for call in (relprop.explain, relprop.check):
        with pytest.raises(CaptureError, match=message):
            call(model, pictures(2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_a_part_of_torchscript(how: str) -> None:
    part = nn.Linear(8, 8)
    script = torch.jit.script(part) if how == "scripted" else torch.jit.trace(part, torch.randn(2, 8))
    model = nn.Sequential(nn.Linear(8, 8), script).eval()
    with pytest.raises(
        CaptureError, match=r"'1', a part of Sequential, is a TorchScript module.*nn\.Module it was made"
    ):
        relprop.explain(model, torch.randn(2, 8))


@pytest.mark.filterwarnings("ignore")
def test_weights_packed_as_integers() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), dtype=torch.qint8)
    with pytest.raises(
        CaptureError, match=r"'0', a part of Sequential, is a quantized Linear, .*before its quantization"
    ):
        relprop.explain(model, torch.randn(2, 8))


def test_inputs_without_a_batch_in_front() -> None:
    model = seeded(lambda: nn.Linear(8, CLASSES))
    packed = pack_sequence([torch.randn(3, 8), torch.randn(2, 8)])
    for given in (packed, (packed,), {"x": packed}):
        with pytest.raises(
            InputError, match="is a PackedSequence, in which the samples are mixed: pass the padded tensor"
        ):
            relprop.explain(model, given)
    with pytest.raises(InputError, match=r"UserDict of pixel_values, mask: .*x=\(\) and kwargs=dict"):
        relprop.explain(model, UserDict(pixel_values=torch.randn(2, 8), mask=torch.ones(2, 8)))


def test_a_dict_in_the_place_of_arguments_by_name() -> None:
    model = Lambda(lambda m, pixel_values: m.head(pixel_values), head=nn.Linear(8, CLASSES)).eval()
    batch = {"pixel_values": torch.randn(2, 8)}
    with pytest.raises(InputError, match=r"Lambda fails on an input of .*pixel_values by name, pass x=\(\) and kwargs"):
        relprop.explain(model, batch)
    assert relprop.explain(model, (), kwargs=batch).relevance.shape == (2, 8)


UNTRACEABLE: dict[str, tuple[Any, str]] = {
    "a fixed batch": (
        lambda m, x: m.head(x.view(2, 8)),
        r"specialized it to be a constant \(2\)|satisfy the generated",
    ),
    "a branch": (lambda m, x: m.head(x) if x.sum() > 0 else x, r"data-dependent.*test_messages\.py:\d+: .*x\.sum\(\)"),
    "a number": (
        lambda m, x: m.head(x) * int(x.sum() > 0) if int(x[0, 0]) else x,
        r"data-dependent.*test_messages\.py",
    ),
    "numpy": (lambda m, x: m.head(x) + torch.from_numpy(x.numpy())[:, :5], r"test_messages\.py:\d+: .*numpy"),
}


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("kind", UNTRACEABLE)
def test_the_cause_and_its_place_are_kept(kind: str) -> None:
    forward, message = UNTRACEABLE[kind]
    model = Lambda(forward, head=nn.Linear(8, CLASSES)).eval()
    with pytest.raises(CaptureError, match=rf"(?s)could not trace Lambda: [^\n]*({message})") as caught:
        relprop.explain(model, torch.randn(2, 8))
    first = str(caught.value).splitlines()[0]
    assert "TORCH_LOGS" not in first
    assert "mark_dynamic" not in first


class TestWhoFails:
    def test_the_model_on_the_input(self) -> None:
        model = nn.Sequential(nn.Linear(9, 3)).eval()
        with pytest.raises(InputError, match=r"Sequential fails on an input of \(B, 8\)"):
            relprop.explain(model, torch.randn(2, 8))

    def test_a_batch_size_in_the_code(self) -> None:
        model = Lambda(lambda m, x: m.head(x.view(3, 8)), head=nn.Linear(8, CLASSES)).eval()
        with pytest.raises(CaptureError, match=r"Lambda takes a batch of 3, and fails on one of 2") as caught:
            relprop.explain(model, torch.randn(3, 8))
        assert "fails on an input" not in str(caught.value)

    def test_a_copy(self) -> None:
        """A forward that knows the model by identity."""
        known: dict[int, nn.Module] = {}
        model = Lambda(lambda m, x: known[id(m)].head(x), head=nn.Linear(8, CLASSES)).eval()
        known[id(model)] = model
        with pytest.raises(CaptureError, match=r"Lambda takes the input, but a copy of it, .*KeyError") as caught:
            relprop.explain(model, torch.randn(2, 8))
        assert "fails on an input" not in str(caught.value)

    def test_the_model_is_put_back(self) -> None:
        """It is called itself, to know whether it fails."""
        model, lock = Lambda(self._counting, head=nn.Linear(9, CLASSES), seen=[], calls=0).eval(), threading.Lock()
        model.register_buffer("steps", torch.zeros(()))
        model.lock = lock
        seen = model.seen
        with pytest.raises(InputError, match="fails on an input"):
            relprop.explain(model, torch.randn(2, 8))
        assert (model.calls, float(model.steps), model.seen, model.lock) == (0, 0.0, [], lock)
        assert model.seen is seen

    @staticmethod
    def _counting(m: Any, x: Tensor) -> Tensor:
        m.calls += 1
        m.steps.add_(1)
        m.seen.append(x)
        return m.head(x)
