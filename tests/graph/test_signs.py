"""The analysis of signs claims nothing that a run contradicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

import relprop
from relprop.graph.signs import nonnegative_nodes
from tests.helpers.models import CLASSES, KINDS, Lambda, make

aten = torch.ops.aten


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize("kind", KINDS)
def test_sign_analysis_claims_nothing_untrue(kind: str) -> None:
    graph = relprop.capture(make(kind), (KINDS[kind][1](2),))
    claimed = nonnegative_nodes(graph)

    class Checked(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in names:
                values = value if isinstance(value, tuple | list) else [value]
                assert all(float(v.min()) >= 0 for v in values if v.is_floating_point()), n.name
            return value

    names = {node.name for node in claimed}
    with torch.no_grad():
        Checked(graph.module()).run(KINDS[kind][1](4))
    if kind in ("plain", "convolutional"):
        assert names


def test_clamp_with_a_negative_ceiling_is_negative() -> None:
    model = Lambda(lambda m, x: m.head(x.relu().clamp(max=-0.5)), head=nn.Linear(8, CLASSES)).eval()
    graph = relprop.capture(model, (torch.randn(2, 8),))
    assert {node.target for node in nonnegative_nodes(graph)} == {aten.relu.default}
