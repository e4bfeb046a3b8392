"""Complex numbers between real ones: relevance goes through them, or one error says where it can't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from relprop import CaptureError, MissingRuleError
from rule_registry import Rule, select
from tests.helpers.models import Lambda, distance, seeded

aten = torch.ops.aten


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


class Model(nn.Module):
    """A layer, something with complex numbers, and another layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("turns", torch.polar(torch.ones(4), torch.arange(4.0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, self.first(x)))


def rotated(model: Model, h: Tensor) -> Tensor:
    """A rotary position embedding."""
    turned = torch.view_as_complex(h.unflatten(-1, (-1, 2))) * model.turns
    return torch.view_as_real(turned).flatten(-2)


def moved(model: Model, h: Tensor) -> Tensor:
    c = torch.fft.fft(h)
    c = torch.cat([c[:, 4:].flip(1), c[:, :4] * c[:, 4:]], 1)
    return (
        F.pad(c, (1, 1))[:, :-2].masked_fill(torch.arange(8) > 5, 0).imag + c.reshape(-1, 2, 4).sum(1).repeat(1, 2).real
    )


FUNCTIONS = {
    "fourier": lambda m, h: h + torch.fft.fft(h).real,
    "filtered": lambda m, h: torch.fft.irfft(torch.fft.rfft(h, norm="ortho") * (2 - 1j), n=8, norm="ortho"),
    "rotated": rotated,
    "moved": moved,
    "absolute": lambda m, h: torch.fft.fft(h).abs() + torch.complex(h, h.tanh()).angle(),
    "conjugate": lambda m, h: (torch.fft.fft(h) * torch.fft.fft(h).conj()).real + torch.fft.fft(h).conj().imag,
    "cast": lambda m, h: (h.to(torch.complex128) * (1 + 2j)).to(h.dtype),
    "exponential": lambda m, h: torch.exp(1j * h).real * (h + 1j * h).imag,
}


@pytest.mark.sweep(every=8)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_the_gradient_goes_through_as_autograd_has_it(name: str) -> None:
    model, x = seeded(lambda: Model(FUNCTIONS[name])).double(), random(3, 8)
    assert relprop.gradient_oracle_error(model, x, target=1) <= 1e-14
    e = relprop.explain(model, x, target=1, rules="gradient", contrast="rest")
    x.requires_grad_()
    output = model(x)
    (expected,) = torch.autograd.grad((output[:, 1] - (output[:, 0] + output[:, 2]) / 2).sum(), x)
    assert e.relevance.dtype == torch.float64
    assert distance(e.relevance, expected) <= 1e-14


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_a_cast_of_the_input_itself_leaves_a_real_gradient() -> None:
    model = seeded(lambda: Lambda(lambda m, x: m.head((x.to(torch.complex128) * (1 + 2j)).imag), head=nn.Linear(8, 3)))
    assert relprop.explain(model.double(), random(3, 8), rules="gradient").relevance.dtype == torch.float64
    assert relprop.gradient_oracle_error(model, random(3, 8)) <= 1e-14


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("rules", ["abslrp", "epsilon", "abslrp-released", "general"])
def test_rules_of_real_numbers_are_not_asked(rules: str) -> None:
    """All operations of complex numbers are listed, also those that have a rule for real ones."""
    general = rule_registry.get("abslrp").derive(default=rule_registry.positive_contribution)
    with pytest.raises(MissingRuleError) as raised:
        relprop.explain(
            seeded(lambda: Model(rotated)).float(), random(3, 8).float(), rules=general if rules == "general" else rules
        )
    message = str(raised.value)
    for op in ("view_as_complex.default", "mul.Tensor", "view_as_real.default"):
        assert f"aten.{op} in the model (Model), {__file__}" in message
    assert message.count(", of complex numbers") == 3
    assert "complex=True" in message
    assert "positive_contribution" not in message


def test_rules_that_are_meant_for_complex_numbers() -> None:
    """A rotation passes the relevance of each pair on, half for each; all of it is conserved."""

    def to_pairs(call: Any, relevance: Tensor) -> Tensor:
        return relevance.unsqueeze(-1).expand(*relevance.shape, 2) / 2

    def from_pairs(call: Any, relevance: Tensor) -> Tensor:
        return relevance.sum(-1)

    rules = rule_registry.get("abslrp").derive(
        {
            aten.view_as_complex.default: Rule("to_pairs", to_pairs, complex=True),
            aten.view_as_real.default: Rule("from_pairs", from_pairs, complex=True),
            select(op=aten.mul.Tensor, path=""): rule_registry.passes,
        }
    )
    e = relprop.explain(seeded(lambda: Model(rotated)), random(3, 8).float(), rules=rules, layers=["first"])
    assert e.conservation.error <= 1e-5
    assert e.relevance.dtype == torch.float32
    assert e.relevance.any()
    pairs = e.layers["first"].unflatten(-1, (-1, 2))
    assert torch.equal(pairs[..., 0], pairs[..., 1])


def test_a_fourier_network() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.FNetConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=32, vocab_size=50, max_position_embeddings=16
    )
    model = seeded(lambda: transformers.FNetForSequenceClassification(config)).double()
    tokens = torch.arange(24).reshape(3, 8)
    options: Any = {"output": "logits", "at": "fnet.embeddings", "target": 1}
    assert relprop.gradient_oracle_error(model, tokens, **options) <= 1e-12
    with pytest.raises(MissingRuleError, match=r"aten.fft_fftn.default in fnet.encoder.layer.0.fourier"):
        relprop.explain(model, tokens, **options)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, h: (1j * h).roll(1, 0).imag, r"aten\.roll.*perturbing one sample changed another"),
        (lambda m, h: (torch.fft.fft(h) * torch.fft.fft(h).sum(0)).real, r"no single axis .*carries the batch"),
    ],
    ids=["rolled", "summed"],
)
def test_samples_that_meet_in_complex_numbers_are_refused(function: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        relprop.explain(seeded(lambda: Model(function)), random(3, 8).float(), rules="gradient")


def test_complex_inputs_are_held() -> None:
    model = seeded(
        lambda: Lambda(lambda m, x, w: m.head(torch.fft.ifft(torch.fft.fft(x) * w).real), head=nn.Linear(8, 3))
    )
    e = relprop.explain(model.double(), (random(3, 8), random(3, 8, dtype=torch.complex128)), rules="gradient")
    assert list(e.relevances) == ["x"]
    assert e.relevance.any()


@pytest.mark.full
def test_complex_outputs_and_modules_are_refused_in_words() -> None:
    x = random(3, 8).float()
    returns = seeded(lambda: Lambda(lambda m, x: torch.fft.fft(m.head(x)), head=nn.Linear(8, 3)))
    with pytest.raises(CaptureError, match=r"output of Lambda is complex.*target=lambda"):
        relprop.explain(returns, x, rules="gradient")
    e = relprop.explain(returns, x, target=lambda out: out.abs()[:, 1], rules="gradient")
    assert e.relevance.any()
    inner = seeded(lambda: Lambda(lambda m, x: m.fourier(x).real, fourier=Lambda(lambda m, x: torch.fft.fft(x))))
    for place in ({"at": "fourier"}, {"layers": ["fourier"]}):
        with pytest.raises(CaptureError, match=r"module 'fourier' hands on complex numbers"):
            relprop.explain(inner, x, rules="gradient", **place)
