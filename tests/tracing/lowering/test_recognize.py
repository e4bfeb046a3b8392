"""What a model writes out is explained as the operation that it is, and what only looks like it is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from tests.helpers.models import Lambda, distance, seeded

aten = torch.ops.aten
SIZE = 6


def new_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Any]] = {
    "rms": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3),
        lambda x: F.rms_norm(x, (SIZE,), eps=1e-3),
        aten.rms_norm.default,
    ),
    "rms, divided": (
        lambda x: x / torch.sqrt(1e-3 + (x * x).mean(dim=1, keepdim=True)),
        lambda x: F.rms_norm(x, (SIZE,), eps=1e-3),
        aten.rms_norm.default,
    ),
    "gelu, tanh": (new_gelu, lambda x: F.gelu(x, approximate="tanh"), aten.gelu.default),
    "gelu, erf": (lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), F.gelu, aten.gelu.default),
    "silu": (lambda x: torch.sigmoid(x) * x, F.silu, aten.silu.default),
}


def model_of(function: Callable[[Tensor], Tensor]) -> nn.Module:
    def build() -> nn.Module:
        return Lambda(lambda m, x: m.last(function(m.first(x))), first=nn.Linear(4, SIZE), last=nn.Linear(SIZE, 3))

    return seeded(build).double()


def inputs() -> Tensor:
    return torch.randn(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.sweep(every=6)
def test_written_out_is_explained_as_the_operation(name: str) -> None:
    written, operation, target = PAIRS[name]
    both = [model_of(function) for function in (written, operation)]
    assert target in {node.target for node in relprop.capture(both[0], (inputs(),)).calls()}
    for rules in ("attnlrp", "abslrp", "gradient"):
        found, expected = (relprop.explain(model, inputs(), rules=rules).relevance for model in both)
        assert distance(found, expected) <= 1e-9


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-3),
        lambda x: x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-3),
        lambda x: x.tanh() * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3),
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: 0.5 * x * (1 + torch.tanh(0.7 * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + torch.erf(x)),
    ],
    ids=["a sum", "fourth power", "another value", "quick gelu", "another factor", "another scale"],
)
@pytest.mark.full
def test_what_only_looks_like_it_is_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    targets = {node.target for node in relprop.capture(model_of(function), (inputs(),)).calls()}
    assert not targets & {target for _, _, target in PAIRS.values()}
