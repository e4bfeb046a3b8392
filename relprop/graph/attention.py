"""Attention, found by the graph alone: its softmax, the products around it, and the layers around these.

Between a layer and a product of attention lies nothing that mixes what several layers made, and no activation function:
moves, numbers and other constants that are added or multiplied, norms, and sums of what one layer made, as rotary
embeddings are. `_Origins` follows every value back through these operations alone. What is left is decided by who is
whose origin.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

import rule_registry
from relprop.graph.arguments import argument_nodes
from relprop.graph.dataflow import carries_relevance
from relprop.graph.graph import Graph
from rule_registry import Slot
from rule_registry.operations.deviations import SPREADS
from rule_registry.operations.elementwise import (
    DIFFERENCES,
    ELEMENTWISE,
    PAIRS,
    PRODUCTS,
    QUOTIENTS,
    REVERSED_DIFFERENCES,
    SUMS,
)
from rule_registry.operations.norms import BATCH_NORM, NORMS
from rule_registry.operations.products import FACTORS
from rule_registry.operations.winners import EXTREMES

aten = torch.ops.aten

Origin = frozenset[fx.Node]
_NOTHING: Origin = frozenset()

_SOFTMAXES = (aten.softmax.int, aten._softmax.default)
_SUMS = {*SUMS, *DIFFERENCES, *REVERSED_DIFFERENCES}
_SCALING = {*_SUMS, *QUOTIENTS, *PRODUCTS, aten.neg.default}
_NORMS = {*NORMS, BATCH_NORM}
_FUNCTIONS = {*ELEMENTWISE, *PAIRS}
_STATISTICS = {aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, *SPREADS, *EXTREMES}
"""What norms that are written out by hand divide by a function of."""


@dataclass(frozen=True)
class Attention:
    """The operations of attention.

    Parameters
    ----------
    parts : frozenset of fx.Node
        Softmaxes, products of activations that feed or follow one, and layers around these.
    weights : mapping
        For each product that follows a softmax, the factor that comes from it.
    """

    parts: frozenset[fx.Node] = frozenset()
    weights: Mapping[fx.Node, Slot] = field(default_factory=dict)


def find_attention(
    graph: Graph, carrying: Sequence[fx.Node], reached: Collection[fx.Node], layers: Collection[fx.Node]
) -> Attention:
    """Find the operations of attention.

    A softmax belongs to attention where a product of two activations follows it: class probabilities don't. Products
    feed it also through sums, as those with position biases are, through functions, as a soft cap is, and through one
    layer, as that between talking heads is. A matrix product counts too where one factor is learned, as the query of
    attention pooling is, if no layer lies between.

    Parameters
    ----------
    graph : Graph
        As captured.
    carrying : sequence of fx.Node
        The operations that carry relevance, in graph order.
    reached : collection of fx.Node
        All values that do.
    layers : collection of fx.Node
        The operations with a weight.
    """
    if not any(node.target in _SOFTMAXES for node in carrying):
        return Attention()
    origins = _Origins(graph, carrying, reached, set(layers))
    weights = {product: slot for product in carrying if (slot := origins.weights(product)) is not None}
    softmaxes = {softmax for product, slot in weights.items() for softmax in origins.softmaxes(product, slot)}
    products = {*weights, *(product for softmax in softmaxes for product in origins.feeding(softmax))}
    made = {origin for product in products for origin in origins.behind(product)}
    taking = {layer for layer in layers if not products.isdisjoint(origins.behind(layer))}
    return Attention(frozenset({*softmaxes, *products, *made.intersection(layers), *taking}), weights)


class _Origins:
    """What each value is made of by operations that may lie between a layer and a product of attention."""

    def __init__(
        self, graph: Graph, carrying: Sequence[fx.Node], reached: Collection[fx.Node], layers: set[fx.Node]
    ) -> None:
        self.layers = layers
        self.moves = rule_registry.get("structural").table
        self.inputs: dict[fx.Node, dict[Slot, fx.Node]] = {}
        self.origins: dict[fx.Node, Origin] = {}
        self.functions: dict[fx.Node, Origin] = {}
        self.statistics: set[fx.Node] = set()
        operations = set(carrying)
        for node in graph.calls():
            if node in operations:
                given = argument_nodes(node)
                self.inputs[node] = {s: value for s, value in given if value in reached and carries_relevance(value)}
                self._follow(node)
            elif node in reached and node.target is operator.getitem:
                self.origins[node] = self.of(node.all_input_nodes[0])

    def of(self, node: fx.Node) -> Origin:
        """Return the operations that a value is made of; what is made of nothing else is its own origin."""
        return self.origins.get(node, frozenset({node}))

    def behind(self, node: fx.Node) -> Origin:
        """Return the operations that the inputs of an operation are made of."""
        return _NOTHING.union(*map(self.of, self.inputs[node].values()))

    def weights(self, product: fx.Node) -> Slot | None:
        """Return the factor of a product of two activations that comes from a softmax, the first of two."""
        if not self._is_product(product):
            return None
        return next((slot for slot in self.inputs[product] if self.softmaxes(product, slot)), None)

    def softmaxes(self, product: fx.Node, slot: Slot) -> list[fx.Node]:
        """Return the softmaxes that a factor comes from, of matrix products also through one layer."""
        factor = self.of(self.inputs[product][slot])
        through = factor & self.layers if product.target in FACTORS else _NOTHING
        return [node for node in factor.union(*map(self.behind, through)) if node.target in _SOFTMAXES]

    def feeding(self, softmax: fx.Node) -> Iterator[fx.Node]:
        """Yield the products that feed a softmax."""
        waiting, seen = [(node, True) for node in self.behind(softmax)], set()
        while waiting:
            node, direct = waiting.pop()
            if node not in self.inputs or (node, direct) in seen:
                continue
            seen.add((node, direct))
            if self._is_product(node):
                if direct or node.target in FACTORS:
                    yield node
            elif node in self.layers:
                if node.target in FACTORS:
                    yield node
                yield from (p for p in self.behind(node) if self._is_product(p) and p.target in FACTORS)
            elif node.target in _SUMS or node.target in _FUNCTIONS:
                waiting += [(origin, direct and node.target in _SUMS) for origin in self.behind(node)]

    def _follow(self, node: fx.Node) -> None:
        """Note what the result of an operation is made of, and what it is a function or a statistic of."""
        values = list(self.inputs[node].values())
        self.origins[node] = self._made_of(node, values) or frozenset({node})
        if node not in self.layers and node.target not in FACTORS and node.target not in _SOFTMAXES:
            self.functions[node] = _NOTHING.union(*(self.functions.get(value, self.of(value)) for value in values))
            if node.target in _STATISTICS or any(value in self.statistics for value in values):
                self.statistics.add(node)

    def _made_of(self, node: fx.Node, values: Sequence[fx.Node]) -> Origin:
        """Return the origins of an operation that may lie between; nothing for any other."""
        op, number = node.target, len(values)
        if op in self.moves:
            return _NOTHING.union(*map(self.of, values))
        if op in _NORMS:
            return self.of(values[0]) if node.args[0] is values[0] else _NOTHING
        if op in QUOTIENTS and node.args[0] is not values[0]:
            return _NOTHING
        if number == 1 and (op in _SCALING or (op in FACTORS and node not in self.layers)):
            return self.of(values[0])
        return self._of_one(op, *values) if number == 2 and op in _SCALING else _NOTHING

    def _of_one(self, op: Any, a: fx.Node, b: fx.Node) -> Origin:
        """Return the one origin of a sum of what the same layer made, or of what is normed by its own statistics."""
        if self.of(a) == self.of(b):
            return self.of(a) if op in _SUMS and len(self.of(a)) == 1 else _NOTHING
        if b in self.statistics and self.functions[b] == self.of(a):
            return self.of(a)
        if a in self.statistics and self.functions[a] == self.of(b) and op in (aten.mul.Tensor, aten.add.Tensor):
            return self.of(b)
        return _NOTHING

    def _is_product(self, node: fx.Node) -> bool:
        """Whether an operation multiplies two activations, and is not the last step of a norm."""
        multiplies = node.target in FACTORS or node.target == aten.mul.Tensor
        return multiplies and len(self.inputs.get(node, ())) == 2 and self.of(node) == {node}
