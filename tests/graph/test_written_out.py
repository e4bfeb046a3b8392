"""Probabilities that a model writes out as arithmetic are known as such, and nothing else is taken for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from relprop.graph.ending import find_link
from tests.helpers.models import Lambda

Function = Callable[[Tensor], Tensor]


def stable(y: Tensor) -> Tensor:
    powers = (y - y.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


WRITTEN: dict[str, tuple[Function, str]] = {
    "ratio of exponentials": (lambda y: y.exp() / y.exp().sum(1, keepdim=True), "output"),
    "exponential of the logarithm": (lambda y: y.log_softmax(1).exp(), "output"),
    "sigmoid of an exponential": (lambda y: 1 / (1 + torch.exp(-y)), "output"),
    "logarithm of probabilities": (lambda y: (y.softmax(1) + 1e-9).log(), "exp"),
    "difference from the logarithm of the sum": (lambda y: y - y.logsumexp(1, keepdim=True), "exp"),
    "its exponential": (lambda y: (y - torch.logsumexp(y, -1)[:, None]).exp(), "output"),
    "ratio, the largest taken off": (stable, "output"),
    "normalised": (lambda y: F.normalize(y.exp(), p=1.0, dim=1), "output"),
    "ratio of softplus": (lambda y: F.softplus(y) / F.softplus(y).sum(1, keepdim=True), "output"),
    "sigmoid, a ratio": (lambda y: y.exp() / (1 + y.exp()), "output"),
    "sigmoid of a tangent": (lambda y: (1 + torch.tanh(y / 2)) / 2, "output"),
    "logarithm of a sigmoid": (lambda y: -F.softplus(-y), "exp"),
}

NONE: dict[str, Function] = {
    "another sum": lambda y: y - (2 * y).logsumexp(1, keepdim=True),
    "a ratio of what has signs": lambda y: y / y.sum(1, keepdim=True),
    "a shifted logarithm": lambda y: (y.log_softmax(1) + 1).exp(),
    "a tangent": lambda y: 1 + torch.tanh(y),
    "normalised to a length": lambda y: F.normalize(y.exp(), dim=1),
}


def linear(function: Function) -> nn.Module:
    torch.manual_seed(0)
    return Lambda(lambda m, x: function(m.last(x)), last=nn.Linear(4, 3)).eval()


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_out_is_known(name: str) -> None:
    function, link = WRITTEN[name]
    assert find_link(relprop.Explainer(linear(function)).plan(torch.rand(2, 4)).graph) == link


@pytest.mark.sweep(every=5)
@pytest.mark.parametrize("name", NONE)
def test_nothing_else_is_taken_for_it(name: str) -> None:
    assert find_link(relprop.Explainer(linear(NONE[name])).plan(torch.rand(2, 4)).graph) == "softmax"


def test_the_probability_is_the_output() -> None:
    x = torch.rand(2, 4)
    model = linear(lambda y: y.log_softmax(1).exp())
    assert torch.allclose(relprop.explain(model, x, target=1).probability, model(x)[:, 1])
