"""In-place operations written out of place before a graph is lowered: where nobody can tell, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn import functional as F

import relprop
from relprop.tracing.lowering.functionalize import leave_out_dropout, write_out_of_place

aten = torch.ops.aten


class Net(nn.Module):
    """Two linear layers around what is under test."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


def half_and_single(h: Tensor) -> Tensor:
    return h.half().mul(2.0).add_(h.float() / 3).to(h)  # a sum in half precision, which x + y would not be


def through_dropout(h: Tensor) -> Tensor:
    F.dropout(h, training=False).relu_()  # the very memory of h
    return h * 2


def seen_through_a_view(h: Tensor) -> Tensor:
    parts = h.unflatten(1, (2, 3))
    h.mul_(2.0)
    return parts.flatten(1) + h


def read_before(h: Tensor) -> Tensor:
    kept = h.exp()
    return F.relu(h, inplace=True) + kept


def part_of_it(h: Tensor) -> Tensor:
    h[:, :3].add_(1.0).relu_()
    return h


KEPT = [through_dropout, seen_through_a_view, half_and_single]
REPLACED: dict[str, Callable[[Tensor], Tensor]] = {
    "one after the other": lambda h: F.hardtanh_(h.mul_(2.0).add_(0.1), 0.0, 6.0),
    "with itself": lambda h: h.add_(h),
    "read by nobody else": lambda h: F.silu(h * h, inplace=True) + h,
}


def in_place(graph: torch.fx.Graph) -> list[str]:
    names = [node.target._schema.name for node in graph.nodes if isinstance(node.target, OpOverload)]
    return [name for name in names if name.endswith("_")]


def exported(net: Net) -> torch.fx.Graph:
    with torch.no_grad():
        return torch.export.export(net, (torch.randn(2, 6, dtype=torch.float64),), strict=False).graph


@pytest.mark.sweep(every=8)
@pytest.mark.parametrize("middle", [*KEPT, read_before, part_of_it, *REPLACED.values()])
def test_captured_graphs_compute_what_the_model_does(middle: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, x = Net(middle).double().eval(), torch.randn(4, 6, dtype=torch.float64)
    graph = relprop.capture(net, (x,))
    assert not in_place(graph.graph)
    assert torch.equal(graph.module()(x), net(x))
    if middle is not half_and_single:
        assert relprop.gradient_oracle_error(net, x) < 1e-12


@pytest.mark.parametrize("middle", REPLACED.values(), ids=REPLACED)
def test_what_nobody_else_reads_is_written_out_of_place(middle: Callable[[Tensor], Tensor]) -> None:
    graph = exported(Net(middle).double().eval())
    assert in_place(graph)
    write_out_of_place(graph)
    assert not in_place(graph)


def test_a_dropout_that_drops_nothing_is_its_input() -> None:
    graph = exported(Net(through_dropout).double().eval())
    leave_out_dropout(graph)
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [
        aten.linear.default,
        aten.relu_.default,
        aten.mul.Tensor,
        aten.linear.default,
    ]
    with torch.no_grad():
        last = torch.export.export(nn.Dropout().eval(), (torch.randn(2, 6),), strict=False).graph
    leave_out_dropout(last)
    assert last.find_nodes(op="call_function", target=aten.dropout.default)  # the output is known by its name


@pytest.mark.parametrize("middle", KEPT)
def test_what_somebody_may_see_is_left_to_lowering(middle: Callable[[Tensor], Tensor]) -> None:
    graph = exported(Net(middle).double().eval())
    before = in_place(graph)
    assert before
    write_out_of_place(graph)
    assert in_place(graph) == before
