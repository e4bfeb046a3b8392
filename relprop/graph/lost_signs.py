"""Where a target subtracts what rules of positive contributions can't subtract: they would leave it out silently."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from relprop.graph.arguments import argument_nodes, bind_arguments
from relprop.graph.class_scores import slopes
from relprop.graph.graph import Graph
from rule_registry.operations.elementwise import DIFFERENCES, PRODUCTS, REVERSED_DIFFERENCES, SUMS
from rule_registry.operations.linear_maps import AVERAGES
from rule_registry.operations.products import FACTORS

aten = torch.ops.aten

_JOINED = {*SUMS, *DIFFERENCES, *REVERSED_DIFFERENCES}


def find_lost_sign(
    graph: Graph, reached: Collection[fx.Node], layers: Collection[fx.Node], nonnegative: Collection[fx.Node]
) -> tuple[fx.Node, str] | None:
    """Return the first operation, counted from the output, that loses the sign with which something counts.

    Such are sums of terms of which one counts negatively, what counts with both signs, and operations whose output
    speaks against the target and of which nothing is known. Activations, moves, maxima and scalars keep a sign, and so
    do layers, which take it for that of the evidence.

    Parameters
    ----------
    graph, reached, layers, nonnegative
        As of `relprop.graph.class_scores.class_scores`.

    Returns
    -------
    (fx.Node, str) or None
        The operation, and in words what it does.
    """
    handed: dict[fx.Node, set[int]] = {graph.output: {1}}
    for node in reversed([node for node in graph.calls() if node in reached]):
        signs = handed.get(node, set())
        if {1, -1} <= signs:
            return node, "what is both added and subtracted comes from"
        if signs not in ({1}, {-1}) or node in layers:
            continue
        sign = next(iter(signs))
        terms = [(source, sign * slope) for source, slope in slopes(graph, node, nonnegative) if source in reached]
        if (not terms and sign < 0) or (_joins(node, reached) and any(count < 0 for _, count in terms)):
            return node, "something is subtracted in"
        if _has_mixed_constant(graph, node, reached):
            return node, "a constant of both signs multiplies in"
        for source, count in terms:
            handed.setdefault(source, set()).add(count)
    return None


def _joins(node: fx.Node, reached: Collection[fx.Node]) -> bool:
    """Whether an operation adds several entries that relevance comes to."""
    if node.target in _JOINED:
        return sum(value in reached for _, value in argument_nodes(node)) > 1
    return node.target in AVERAGES


def _has_mixed_constant(graph: Graph, node: fx.Node, reached: Collection[fx.Node]) -> bool:
    """Whether an operation multiplies with a held tensor of which some entries are negative and some positive."""
    names = FACTORS.get(node.target) or (("self", "other") if node.target in PRODUCTS else ("input", "weight"))  # type: ignore[call-overload]
    if node.target not in FACTORS and node.target not in (*PRODUCTS, aten.linear.default, aten.mv.default):
        return False
    given = bind_arguments(node, node.args, node.kwargs)
    held = [
        graph.tensors[str(value.target)]
        for name in (*names, "vec")
        if isinstance(value := given.get(name), fx.Node) and value.op == "get_attr" and value not in reached
    ]
    return any(not t.is_complex() and bool((t < 0).any()) for t in held)
