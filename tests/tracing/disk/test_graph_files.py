"""Captured graphs as text: what is read again is the graph that was written, and nothing in a text is carried out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from relprop.graph.graph import Graph
from relprop.tracing.disk.graph_reading import read_graph
from relprop.tracing.disk.graph_writing import NotWritableError, write_graph
from relprop.tracing.reach import reach
from tests.helpers.models import CLASSES, Lambda, make, pictures, seeded, sequences


def windows(m: Any, x: Tensor) -> Tensor:
    """The batch merged with windows, sizes computed from it, and a constant made in the forward."""
    x = m.conv(x).relu()
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
    x = F.softmax(x * torch.tensor([1.0, 0.5, 0.25, 2.0])[:, None], 1).reshape(b, -1, c)
    return m.head(x.mean(1) + m.table[torch.arange(1)])


def parts(m: Any, x: Tensor) -> Tensor:
    first, second = m.conv(x).relu().split([3, 5], 1)
    return m.head(torch.cat([second, first.sigmoid()], 1).mean((2, 3)).masked_fill(m.mask, float("inf")).clamp(max=1e3))


def model(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    def build() -> nn.Module:
        built = Lambda(forward, conv=nn.Conv2d(3, 8, 3), head=nn.Linear(8, CLASSES))
        built.table = nn.Parameter(torch.randn(1, 8))
        built.register_buffer("mask", torch.arange(8) == 3)
        return built

    return seeded(build)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "windows": lambda: model(windows),
    "parts": lambda: model(parts),
    "convolutional": lambda: make("convolutional"),
    "transformer": lambda: make("transformer"),
    "heads": lambda: make("heads"),  # of sequences
}


def written(graph: Graph, held: list[Tensor]) -> Any:
    return json.loads(json.dumps(write_graph(graph, held)))


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def network(request: pytest.FixtureRequest) -> nn.Module:
    return request.param()


def inputs(network: nn.Module, samples: int) -> Tensor:
    return sequences(samples) if hasattr(network, "attention") else pictures(samples)


@pytest.mark.sweep(every=6)
def test_what_is_read_is_what_was_written(network: nn.Module) -> None:
    x = inputs(network, 2)
    graph, held = relprop.capture(network, (x,)), reach(network).tensors
    found = read_graph(written(graph, held), held)
    assert [(n.op, n.name, n.target) for n in found.graph.nodes] == [
        (n.op, n.name, n.target) for n in graph.graph.nodes
    ]
    assert found.graph.python_code("self").src == graph.graph.python_code("self").src
    by_name = {node.name: node for node in found.graph.nodes}
    assert {n.name: mark for n, mark in graph.batch.items()} == {n.name: mark for n, mark in found.batch.items()}
    assert {n.name: o for n, o in graph.origins.items()} == {n.name: o for n, o in found.origins.items()}
    assert found.parameters == graph.parameters
    assert [n.name for n in found.inputs] == [n.name for n in graph.inputs]
    assert found.output is by_name[graph.output.name]
    own = set(map(id, held))
    for name, tensor in graph.tensors.items():
        assert found.tensors[name] is tensor or id(tensor) not in own
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)
    for batch in (inputs(network, 1), inputs(network, 3)):
        torch.testing.assert_close(found.module()(batch), graph.module()(batch), rtol=0, atol=0)


@pytest.mark.full
def test_sizes_types_and_strides_are_those_of_the_capture(network: nn.Module) -> None:
    graph, held = relprop.capture(network, (inputs(network, 2),)), reach(network).tensors
    found = read_graph(written(graph, held), held)
    (symbol,) = {str(n.meta["val"].shape[0]) for n in graph.inputs}
    (other,) = {str(n.meta["val"].shape[0]) for n in found.inputs}
    for mine, theirs in list(zip(found.graph.nodes, graph.graph.nodes, strict=True))[:-1]:
        value, wanted = mine.meta["val"], theirs.meta["val"]
        for a, b in zip(*(v if isinstance(v, tuple | list) else [v] for v in (value, wanted)), strict=True):
            if not isinstance(b, Tensor):
                assert str(a) == str(b).replace(symbol, other)
                continue
            assert (a.dtype, a.device) == (b.dtype, b.device)
            sizes = [str(n).replace(symbol, other) for n in (*b.shape, *b.stride())]
            assert [str(n) for n in (*a.shape, *a.stride())] == sizes


@pytest.mark.sweep(every=12)
@pytest.mark.parametrize(
    "forged",
    [
        {"target": "aten::from_file", "args": ["tuple", "/etc/passwd", False, 4], "kwargs": {}},
        {"target": "aten::relu_"},
        {"target": "os.system", "args": ["tuple", "true"]},
        {"target": "operator.call"},
        {"target": "aten::__class__"},
        {"value": ["tensor", ["__import__('os').getpid()"], ["1"], "torch.float32", "cpu"]},
        {"value": ["tensor", ["2**2**9"], ["1"], "torch.float32", "cpu"]},
        {"value": ["tensor", ["2"], ["1"], "torch.load", "cpu"]},
        {"args": ["tuple", ["node", "none such"]]},
    ],
    ids=str,
)
def test_nothing_in_a_text_is_carried_out(forged: dict[str, Any]) -> None:
    network = model(parts)
    text = written(relprop.capture(network, (pictures(2),)), reach(network).tensors)
    node = next(n for n in text["nodes"] if n["target"] == "aten::relu")
    node.update(forged)
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        read_graph(text, reach(network).tensors)


def test_a_large_constant_is_not_written() -> None:
    network = model(lambda m, x: m.head((m.conv(x) + torch.ones(600, 1000).sum() * 0).mean((2, 3))))
    graph = relprop.capture(network, (pictures(2),))
    tensors = {**graph.tensors, "held": torch.ones(600, 1000)}
    with pytest.raises(NotWritableError, match="a constant of shape"):
        write_graph(Graph(**{**vars(graph), "tensors": tensors}), reach(network).tensors)
