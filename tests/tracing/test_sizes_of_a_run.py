"""Sizes that only a run tells, of ``x[:, mask]`` say, go through every later step, in batches of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from tests.helpers.models import CLASSES, Lambda, distance, gradient, seeded

MASK = torch.tensor([True, False, True, True, False, True, False, True])


def _nonzero(m: Any, x: Tensor) -> Tensor:
    chosen = m.body(x)[:, m.mask.nonzero().squeeze(1)].sigmoid()
    return m.out(torch.stack([chosen.mean(1), chosen.square().mean(1)], 1))


def _positions(m: Any, x: Tensor) -> Tensor:
    """Cells of a feature map inside a region."""
    cells = m.body(x).unflatten(1, (2, 4)).repeat(1, 1, 2)
    return m.out(cells[:, :, m.mask].sigmoid().mean(2))


def _edges(m: Any, x: Tensor) -> Tensor:
    """A layer of a graph network, whose edges are where the adjacency is not zero: eight nodes of two features."""
    source, goal = m.adjacency.nonzero().unbind(1)
    nodes = torch.stack([m.body(x), m.body(x).tanh()], 2)
    gathered = torch.zeros_like(nodes).index_add(1, goal, nodes[:, source])
    return m.out(gathered.relu().mean(1))


FORWARDS = {"mask": _positions, "nonzero": _nonzero, "edges of a graph": _edges}


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("name", FORWARDS)
def test_batches_of_any_size(name: str) -> None:
    def build() -> nn.Module:
        model = Lambda(FORWARDS[name], body=nn.Linear(8, 8), out=nn.Linear(2, CLASSES))
        model.register_buffer("mask", MASK)
        model.register_buffer("adjacency", (torch.rand(8, 8) > 0.6).double())
        model.out.weight.data.abs_()  # so that something speaks for every class
        return model

    model = seeded(build).double()
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explainer = relprop.Explainer(model, rules="gradient", layers=["body"])
    for batch in (5, 1):
        assert distance(explainer(x[:batch]).relevance, gradient(model, x[:batch])) <= 1e-9
    whole = relprop.explain(model, x)
    assert whole.conservation.error <= 1e-9
    assert whole.conservation.lost == 0
    for size in (2, "auto"):
        assert distance(relprop.explain(model, x, batch_size=size).relevance, whole.relevance) <= 1e-9  # type: ignore[arg-type]
