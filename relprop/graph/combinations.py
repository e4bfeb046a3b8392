"""Linear combinations of a layer's outputs: which operations behind the layer make one, and what it is made of.

Rules of positive contributions would explain a difference ``z_0 - z_1`` by the one score that is positive alone. But
the difference is a score of its own, with the weights ``w_0 - w_1``: so it is explained as the layer that has these.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import SymInt, Tensor, fx

import rule_registry
from relprop.graph.arguments import argument_nodes, bind_arguments
from relprop.graph.dataflow import carries_relevance, value_inputs
from relprop.graph.graph import Graph
from rule_registry import BatchAxis, layer_arguments
from rule_registry.operations.elementwise import DIFFERENCES, PRODUCTS, QUOTIENTS, REVERSED_DIFFERENCES, SUMS
from rule_registry.operations.linear_maps import AVERAGES
from rule_registry.operations.products import FACTORS

aten = torch.ops.aten

_VECTORS = (aten.mv.default, aten.dot.default, aten.linear.default)
_POOLS = {
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.mean.dim,
    aten.dropout.default,
}
"""Averages over the places of each channel: they and a combination of channels may change their order."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose outputs are combined.

    Parameters
    ----------
    scores : fx.Node
        What is combined, ``(B, C)`` or ``(B, C, 1, ...)``: the layer's output, or its average over all places.
    layer : fx.Node
        The layer itself.
    pools : tuple of fx.Node
        The averages between the two, in order.
    """

    scores: fx.Node
    layer: fx.Node
    pools: tuple[fx.Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Combination:
    """A value that is linear in the outputs of one or several layers, but for a constant.

    Parameters
    ----------
    top : fx.Node
        The value, samples in front.
    layers : tuple of Layer
        What it is made of.
    operations : frozenset of fx.Node
        The operations between these and the value, it included.
    sign : int
        -1 where a smaller value speaks for the target.
    """

    top: fx.Node
    layers: tuple[Layer, ...]
    operations: frozenset[fx.Node]
    sign: int


def find_combinations(graph: Graph, layers: Collection[fx.Node], evidence: dict[fx.Node, int]) -> list[Combination]:
    """Find the combinations behind the last layers, of which no other is made.

    Parameters
    ----------
    graph : Graph
        As captured.
    layers : collection of fx.Node
        Operations with a weight: behind the first of them, counted from the output, nothing is looked for.
    evidence : dict
        The operations at the class scores, with the sign of the evidence at the output of each.
    """
    finder = _Finder(graph, layers)
    found, wanted = [], {graph.output}
    for node in reversed(list(graph.calls())):
        sign = evidence.get(node, 1)
        if node not in wanted or (node in layers and sign > 0):
            continue
        combination = finder.combination(node, sign)
        if combination is None and node in layers:
            continue
        if combination is None:
            wanted.update(value for value in finder.active(node) if carries_relevance(value))
        elif sign < 0 or any(not finder.is_move(operation) for operation in combination.operations):
            found.append(combination)
    return found


class _Finder:
    """Walks back from a value through linear operations to the layers that it is made of."""

    def __init__(self, graph: Graph, layers: Collection[fx.Node]) -> None:
        self.graph = graph
        self.layers = layers
        self.moves = rule_registry.get("structural").table
        self.depending = set(graph.inputs)
        for node in graph.calls():
            if not self.depending.isdisjoint(value_inputs(node)):
                self.depending.add(node)

    def active(self, node: fx.Node) -> list[fx.Node]:
        """Return the inputs of an operation that depend on those of the model."""
        return [value for value in value_inputs(node) if value in self.depending]

    def is_move(self, node: fx.Node) -> bool:
        return node.target is operator.getitem or node.target in self.moves

    def combination(self, top: fx.Node, sign: int) -> Combination | None:
        if self.graph.batch.get(top) != BatchAxis(0) or any(isinstance(n, SymInt) for n in top.meta["val"].shape[1:]):
            return None
        roots: dict[fx.Node, Layer] = {}
        operations: set[fx.Node] = set()
        stack = [top]
        while stack:
            node = stack.pop()
            if node in operations or node in roots:
                continue
            if (layer := self.layer(node)) is not None:
                roots[node] = layer
            elif self.is_linear(node):
                operations.add(node)
                stack += self.active(node)
            else:
                return None
        entries = top.meta["val"].shape[1:].numel()
        if not (operations or sign < 0) or entries > max(_channels(root) for root in roots):
            return None
        return Combination(top, tuple(roots.values()), frozenset(operations), sign)

    def is_linear(self, node: fx.Node) -> bool:
        """Whether an operation is affine in all inputs that depend on those of the model, taken together."""
        if node in self.layers or not carries_relevance(node):
            return False
        others = [value for value in node.all_input_nodes if value not in self.depending]
        if any(has_samples(value) and not _counts_samples(value) for value in others):
            return False
        if node.target is operator.getitem:
            return True
        active = [slot.name for slot, value in argument_nodes(node) if value in self.depending]
        if len(active) != len(self.active(node)) or not all(map(carries_relevance, self.active(node))):
            return False  # a size that depends on a value, or an index that does
        if self.is_move(node) or node.target in AVERAGES or node.target == aten.neg.default:
            return True
        if node.target in (*SUMS, *DIFFERENCES, *REVERSED_DIFFERENCES):
            return True
        if node.target in QUOTIENTS:
            return active == ["self"]
        return len(active) == 1 and (node.target in (*PRODUCTS, *_VECTORS) or node.target in FACTORS)

    def layer(self, node: fx.Node) -> Layer | None:
        """Return the layer whose scores a node is, one number for each channel; None where it is none."""
        shape = node.meta["val"].shape if isinstance(node.meta["val"], Tensor) else ()
        if len(shape) < 2 or any(size != 1 for size in shape[2:]) or self.graph.batch.get(node) != BatchAxis(0):
            return None
        pools: list[fx.Node] = []
        found = node
        while found not in self.layers and found.target in _POOLS and len(found.args[0].meta["val"].shape) > 2:  # type: ignore[union-attr]
            pools.append(found)
            found = found.args[0]  # type: ignore[assignment]
        if found not in self.layers or not self.combines(found) or found.meta["val"].shape[1] != shape[1]:
            return None
        return Layer(node, found, tuple(reversed(pools)))

    def combines(self, layer: fx.Node) -> bool:
        """Whether combinations of the channels fold into weight and bias: one group, channels behind the samples."""
        declared = layer_arguments(layer.target)  # type: ignore[arg-type]
        if declared is None or declared.weight_axis or layer.meta["val"].ndim < 2:
            return False
        given = bind_arguments(layer, layer.args, layer.kwargs)
        if layer.target in FACTORS:
            held = [value for name, value in given.items() if name != FACTORS[layer.target][0]]
            bias = given.get("self") if "mat1" in given else None
            plain = (
                layer.meta["val"].ndim == 2
                and (bias is None or bias.meta["val"].ndim == 1)
                and given.get("beta", 1) == given.get("alpha", 1) == 1
            )
        else:
            held = [given.get(name) for name in (*declared.weights, declared.bias)]  # type: ignore[arg-type]
            plain = declared.output_axis is not None and declared.output_axis % layer.meta["val"].ndim == 1
        return plain and given.get(declared.groups or "", 1) == 1 and self.depending.isdisjoint(held)


def has_samples(node: fx.Node) -> bool:
    """Whether the size of a tensor depends on the number of samples."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and any(isinstance(size, SymInt) for size in value.shape)


def _counts_samples(node: fx.Node) -> bool:
    """Whether a tensor is made of the number of samples, and of no other tensor with samples."""
    sources = [value for value in node.all_input_nodes if isinstance(value.meta.get("val"), Tensor)]
    return node.op == "call_function" and all(not has_samples(value) or _counts_samples(value) for value in sources)


def _channels(scores: fx.Node) -> int:
    return int(scores.meta["val"].shape[1])
