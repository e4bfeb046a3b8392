"""Paths through a graph: which values depend on which, and which of them can carry relevance."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor, fx

from relprop.graph.graph import Graph

aten = torch.ops.aten


def between(graph: Graph, sources: Collection[fx.Node], carries: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """Return all nodes on a path from a source to the output, with these two; none where no path leads there.

    Parameters
    ----------
    graph : Graph
        As captured.
    sources : collection of fx.Node
        Where paths begin.
    carries : callable
        Which operations a path may go through.
    """
    forward = set(sources)
    for node in graph.calls():
        if carries(node) and not forward.isdisjoint(value_inputs(node)):
            forward.add(node)
    backward = {graph.output} & forward
    for node in reversed(list(graph.graph.nodes)):
        if node in backward and node not in sources:
            backward.update(source for source in value_inputs(node) if source in forward)
    return backward


def value_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the nodes whose values an operation's own depends on: none where only a shape or a dtype is read."""
    if node.target in _SHAPE_ONLY:
        return []
    if node.target == aten.layer_norm.default and math.prod(node.args[1]) == 1:  # type: ignore[arg-type]
        return [source for source in node.all_input_nodes if source is not node.args[0]]  # one entry less its mean is 0
    return node.all_input_nodes


_SHAPE_ONLY = {
    aten.empty_like.default,
    aten.full_like.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.sym_size.int,
    aten.zeros_like.default,
}


def is_tensor(node: fx.Node) -> bool:
    """Whether a node's value is a tensor, or a tuple with one in it."""
    return bool(_tensors(node))


def carries_relevance(node: fx.Node) -> bool:
    """Whether a node's value is a floating-point or complex tensor, or a tuple with one in it."""
    return any(value.is_floating_point() or value.is_complex() for value in _tensors(node))


def is_complex(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of complex numbers, or a tuple with one in it."""
    return any(value.is_complex() for value in _tensors(node))


def _tensors(node: fx.Node) -> list[Tensor]:
    """Return the tensors, of any shape, that a node's value is made of: itself, or the parts of a tuple."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    return [value for value in values if isinstance(value, Tensor)]


def is_real(node: fx.Node) -> bool:
    """Whether neither an operation nor one of its inputs is of complex numbers."""
    return not any(map(is_complex, (node, *node.all_input_nodes)))
