"""Calls written out one by one make the graph that torch makes of the whole program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import rule_registry
from relprop.errors import CaptureError
from relprop.graph.graph import Graph
from relprop.tracing.build_graph import build_graph
from relprop.tracing.capture import whole_operations
from relprop.tracing.export import Wrapped, export, plain_mode
from relprop.tracing.inputs import check_inputs
from relprop.tracing.lowering import expand as expanding
from relprop.tracing.lowering.expand import expand
from relprop.tracing.lowering.lower import lower, lower_by_torch
from relprop.tracing.lowering.program import as_program
from tests.helpers.models import Lambda

aten = torch.ops.aten


class Recurrent(nn.Module):
    """A recurrent layer and attention, both of which are spelled in other operations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(6, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.layer(x)
        attended, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return attended.mean(1)


def _timm(name: str, side: int, **options: Any) -> Callable[[], tuple[nn.Module, Tensor]]:
    return lambda: (timm.create_model(name, **options), torch.randn(2, 3, side, side))


def _of(function: Callable[[nn.Module, Tensor], Tensor], *shape: int) -> Callable[[], tuple[nn.Module, Tensor]]:
    return lambda: (Lambda(function), torch.randn(2, *shape))


def _equal_sizes(_: nn.Module, x: Tensor) -> Tensor:
    """Calls whose arguments differ in strides or in a constant alone."""
    a, b = x.reshape(-1, 24), x.transpose(1, 2).reshape(-1, 24)
    return torch.cat([a.var(1, correction=0)[:, None], b.var(1)[:, None], x.var((1, 2))[:, None]], 1)


CASES = {
    "convolutions": _timm("resnet10t", 32),
    "in place": _timm("mobilenetv2_050", 32),
    "attention": _timm("vit_tiny_patch16_224", 32, img_size=32, depth=2),
    "windows": _timm("swin_tiny_patch4_window7_224", 56, img_size=56, depths=(2,), num_classes=5),
    "recurrent": lambda: (Recurrent(), torch.randn(2, 3, 6)),
    "equal sizes": _of(_equal_sizes, 4, 6),
    "products": _of(lambda _, x: torch.einsum("bij,bkj->bik", x, x.exp()).flatten(1).logsumexp(1, keepdim=True), 3, 4),
    "sizes": _of(lambda _, x: x.repeat_interleave(2, 0).reshape(x.shape[0], 2, -1).norm(dim=1), 3, 4),
    "names of another": _of(lambda _, x: F.dropout(torch.clamp_min(x, 0.1).contiguous().view_as(x), training=False), 3),
}


def _spell(graph: Graph) -> list[Any]:
    """Return all of a graph that can be compared: calls, sizes and strides, and where they come from."""
    numbers: dict[fx.Node, str] = {}
    lines = []
    for node in graph.graph.nodes:
        numbers[node] = f"%{len(numbers)}"
        arguments = fx.map_arg((node.args, node.kwargs), lambda source: numbers[source])
        value = torch.utils._pytree.tree_map(_value, node.meta.get("val"))
        lines.append((node.op, str(node.target), str(arguments), str(value), graph.origins.get(node)))
    return lines


def _value(value: Any) -> Any:
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else str(value)


def _exported(model: nn.Module, x: Tensor) -> ExportedProgram:
    return export(Wrapped(model.eval()), check_inputs((x,), {}))


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize("case", CASES)
def test_the_graph_is_that_of_run_decompositions(case: str) -> None:
    keep = whole_operations(rule_registry.get("abslrp")) if case != "products" else frozenset()
    torch.manual_seed(0)
    with plain_mode():
        program = _exported(*CASES[case]())
        before = [str(node.target) for node in program.graph.nodes]
        found = expand(program, keep)
        assert found is not None
        expected, composites = lower_by_torch(program, keep)
    assert found[1] == composites
    ours, theirs = (build_graph(part, 0, {}) for part in (as_program(program, found[0]), as_program(expected)))
    assert _spell(ours) == _spell(theirs)
    assert [str(node.target) for node in program.graph.nodes] == before


def test_of_equal_calls_one_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def counting(*given: Any) -> Any:
        calls.append(given)
        return make_fx(*given)

    monkeypatch.setattr(expanding, "make_fx", counting)
    with plain_mode():
        program = _exported(nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(5))), torch.randn(2, 4))
        assert expand(program, frozenset()) is not None
    assert len(calls) == 1


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x.exp().view(-1, 2, 2).mul_(2.0).flatten(1) * x,
        lambda _, x: (
            torch.stack([x.exp(), x]).index_fill_(0, torch.tensor(0), 2.0).unbind()[1][:, ::2].sin_() + x[:, :2]
        ),
        lambda _, x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_a_program_that_overwrites_something_is_left_to_torch(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    x = torch.randn(3, 4)
    with plain_mode():
        program = _exported(Lambda(function), x)
        assert expand(program, frozenset()) is None
        lowered, _ = lower(program, frozenset())
        graph = build_graph(lowered, 0, {})
    assert not any(node.target._schema.is_mutable for node in graph.calls() if hasattr(node.target, "_schema"))
    assert torch.allclose(graph.module()(x), Lambda(function)(x))


def test_a_decomposition_that_refuses_is_heard() -> None:
    attend = Lambda(lambda _, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5))
    with plain_mode(), pytest.raises(CaptureError, match="dropout"):
        expand(_exported(attend, torch.randn(2, 3, 4)), frozenset())
