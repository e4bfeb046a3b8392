"""Which tensor is meant by a module: the one that is read outside of it, and an error where there are several."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import CaptureError
from tests.helpers.models import Lambda, distance, seeded

Both = namedtuple("Both", "first second")


def rows() -> Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def stop(info: Any, relevance: Tensor) -> Tensor:
    return torch.zeros_like(relevance)


class Encoder(nn.Module):
    """Two layers, of whose outputs a function makes what is returned."""

    def __init__(self, returns: Any) -> None:
        super().__init__()
        self.a = nn.Linear(8, 6)
        self.b = nn.Linear(8, 6)
        self.returns = returns

    def forward(self, x: Tensor) -> Any:
        return self.returns(self, self.a(x), self.b(x))


def model_of(returns: Any, reads: Any) -> nn.Module:
    members = {"enc": Encoder(returns), "out": nn.Linear(6, 3)}
    return seeded(lambda: Lambda(lambda m, x: m.out(torch.relu(reads(m.enc, m.enc(x)))), **members))


def leave_by_attribute(encoder: Encoder, a: Tensor, b: Tensor) -> Tensor:
    encoder.aux = [b]
    return a


SEVERAL = {
    "tuple": (lambda m, a, b: (a, b), lambda m, out: out[0] * out[1]),
    "list": (lambda m, a, b: [a, b], lambda m, out: out[0] + out[1]),
    "dict": (lambda m, a, b: {"a": a, "b": b}, lambda m, out: out["a"] - out["b"]),
    "attribute": (leave_by_attribute, lambda m, out: out + m.aux[0]),
    "chunks": (lambda m, a, b: (a * b).repeat(1, 2).chunk(2, 1), lambda m, out: out[0] * out[1]),
}
ONE = {
    "tuple-of-one": (lambda m, a, b: (a * b,), lambda m, out: out[0]),
    "the-second": (lambda m, a, b: (a, a * b, None), lambda m, out: out[1]),
    "twice": (lambda m, a, b: Both(a * b, a * b), lambda m, out: out.second),
    "the-same": (lambda m, a, b: (lambda y: (y, y))(a * b), lambda m, out: out[0] + out[1] ** 2),
    "shape-alone": (lambda m, a, b: (a * b, b), lambda m, out: out[0] * out[1].shape[1]),
    "a-mask-beside": (lambda m, a, b: (a * b, b), lambda m, out: torch.where(out[1] > 0, out[0], 2 * out[0])),
}


@pytest.mark.sweep(every=10)
@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("pattern", ["enc", "en?"])
def test_several_outputs_are_refused_by_name(name: str, pattern: str) -> None:
    model, x = model_of(*SEVERAL[name]), rows()
    which = "module 'enc'" if pattern == "enc" else "module 'enc', which 'en?' matches,"
    places: list[dict[str, Any]] = [{"layers": [pattern]}, {"hooks": {pattern: stop}}]
    for place in [*places, {"at": "enc"}] if pattern == "enc" else places:
        with pytest.raises(CaptureError) as raised:
            relprop.explain(model, x, **place)
        assert str(raised.value).startswith(f"{which} hands on several tensors, not one; name the modules inside it")
        assert str(raised.value).count("\n  enc") == 2
    if pattern == "enc":
        with pytest.raises(CaptureError, match="hands on several tensors"):
            relprop.check(model, x, at="enc")


def test_what_is_inside_can_be_named() -> None:
    model, x = model_of(*SEVERAL["tuple"]), rows()
    e = relprop.explain(model, x, layers=["enc.?"], hooks={"enc.b": stop, "enc_a": lambda info, r: None})
    assert e.layers["enc.a"].any()
    assert not e.layers["enc.b"].any()


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize("name", ONE)
def test_of_several_the_one_that_is_used_further_is_meant(name: str) -> None:
    """Autograd with respect to that tensor, and a hook that stops it stops all."""
    model, x = model_of(*ONE[name]).double(), rows().double()
    assert relprop.gradient_oracle_error(model, x, at="enc", target=1) <= 1e-14
    e = relprop.explain(model, x, rules="gradient", target=1, layers=["enc"])
    assert distance(relprop.explain(model, x, rules="gradient", target=1, at="enc").relevance, e.layers["enc"]) <= 1e-14
    assert e.layers["enc"].any()
    assert not relprop.explain(model, x, hooks={"enc": stop}).relevance.any()


@pytest.mark.full
def test_check_at_a_module_that_returns_a_tuple() -> None:
    report = relprop.check(model_of(*ONE["the-second"]), rows(), rules="gradient", at="enc")
    assert report.ok, str(report)
    assert report.oracle_error <= 1e-14


@pytest.mark.full
def test_branches_of_a_vision_transformer() -> None:
    timm = pytest.importorskip("timm")
    model, x = timm.create_model("crossvit_9_240").eval(), torch.randn(2, 3, 240, 240)
    with pytest.raises(CaptureError, match=r"module 'blocks.0', which 'blocks\.\?' matches, hands on several"):
        relprop.explain(model, x, layers=["blocks.?"])
    e = relprop.explain(model, x, layers=["blocks.1.blocks.?"])
    assert list(e.layers) == ["blocks.1.blocks.0", "blocks.1.blocks.1"]
