"""Operations with a weight, and which of them come first."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx
from torch._ops import OpOverload

from relprop.graph.arguments import argument_nodes
from relprop.graph.graph import Graph
from rule_registry import weights_of


def weighted_layers(graph: Graph, carrying: Sequence[fx.Node]) -> list[fx.Node]:
    """Operations with a weight: a parameter, or what is computed from parameters alone, as a normed weight is."""
    weights: set[fx.Node] = set()
    for node in graph.graph.nodes:
        held = node.op == "get_attr" and str(node.target) in graph.parameters
        if held or (graph.batch.get(node) is None and not weights.isdisjoint(node.all_input_nodes)):
            weights.add(node)
    return [node for node in carrying if any(value in weights for value in _matrices(node))]


def _matrices(node: fx.Node) -> list[fx.Node]:
    if not isinstance(node.target, OpOverload):
        return []
    names = weights_of(node.target)
    return [value for slot, value in argument_nodes(node) if slot.name in names and value.meta["val"].ndim >= 2]


def input_layers(graph: Graph, layers: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the layers that no other layer comes before."""
    reached, behind = set(layers), set()
    for node in graph.calls():
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            behind.add(node)
    return set(layers) - behind
