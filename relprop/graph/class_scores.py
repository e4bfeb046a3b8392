"""Class scores: the way from the target back to the first layers with a weight, where evidence for a class begins."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

import rule_registry
from relprop.graph.arguments import argument_nodes, bind_arguments
from relprop.graph.graph import Graph
from rule_registry.operations import winners
from rule_registry.operations.elementwise import DIFFERENCES, PRODUCTS, QUOTIENTS, REVERSED_DIFFERENCES, SUMS
from rule_registry.operations.linear_maps import AVERAGES

aten = torch.ops.aten

_RISING = {
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.exp.default,
    aten.hardsigmoid.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.log.default,
    aten.log_sigmoid.default,
    aten.log_softmax.int,
    aten.logsumexp.default,
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.softmax.int,
    aten._softmax.default,
    aten.softplus.default,
    aten.tanh.default,
}
"""Activations whose output a larger input makes no smaller; softmax's for the class itself."""

_MAXIMA = {aten.amax.default, aten.max.dim, aten.topk.default, *winners.MAX_POOLS, *winners.INDEXED}


def class_scores(
    graph: Graph, reached: Collection[fx.Node], layers: Collection[fx.Node], nonnegative: Collection[fx.Node]
) -> dict[fx.Node, int]:
    """Return the operations at the class scores, each with the sign of the evidence at its output.

    These are the operations from the target back through moves, scalars, activations, averages, sums and maxima to the
    first layers with a weight, or cosine similarities, these included. The sign is 1 where a larger output speaks for
    the target and -1 where a smaller one does: below a negative scalar, a negation, or the subtracted term of a
    difference. What the target depends on with both signs, or by other ways too, is no class score.

    Parameters
    ----------
    graph : Graph
        As captured. Of a constant that the model holds the sign is the one that it has now.
    reached : collection of fx.Node
        The nodes that relevance comes to.
    layers : collection of fx.Node
        Those of them with a weight.
    nonnegative : collection of fx.Node
        Nodes that are never negative.
    """
    found: dict[fx.Node, int] = {}
    handed: dict[fx.Node, dict[fx.Node, int]] = {}
    for node in reversed([node for node in graph.calls() if node in reached]):
        signs = {handed.get(user, {}).get(node, 0) for user in node.users if user in reached}
        if node is graph.output:
            signs.add(1)
        if len(signs) != 1 or 0 in signs:
            continue
        found[node] = signs.pop()
        if node in layers or node.target == aten.cosine_similarity.default:
            continue
        signed: dict[fx.Node, set[int]] = {}
        for source, sign in slopes(graph, node, nonnegative):
            signed.setdefault(source, set()).add(found[node] * sign)
        handed[node] = {source: signs.pop() for source, signs in signed.items() if len(signs) == 1}
    return found


def slopes(graph: Graph, node: fx.Node, nonnegative: Collection[fx.Node]) -> list[tuple[fx.Node, int]]:
    """Return the inputs of an operation that belong to the class scores too, and the sign with which they count."""
    target: Any = node.target
    if target is operator.getitem:
        return [(node.all_input_nodes[0], 1)]
    inputs = argument_nodes(node)
    if target in _RISING or target in _MAXIMA or target in AVERAGES or target in rule_registry.get("structural").table:
        return [(value, 1) for _, value in inputs]
    if target == aten.neg.default:
        return [(value, -1) for _, value in inputs]
    arguments = bind_arguments(node, node.args, node.kwargs)
    if target in _TERMS:
        first, second = _TERMS[target]
        alpha = _sign(graph, arguments.get("alpha", 1), nonnegative)
        by_name = {first: 1, second: alpha if target in SUMS else -alpha}
        return [(value, by_name[slot.name]) for slot, value in inputs if slot.name in by_name]
    if target in PRODUCTS or target in QUOTIENTS:
        constant = [name for name in ("self", "other") if not _is_activation(graph, arguments[name])]
        if len(constant) == 1 and (target in PRODUCTS or constant == ["other"]):
            sign = _sign(graph, arguments[constant[0]], nonnegative)
            return [(value, sign) for slot, value in inputs if slot.name not in constant]
    return []


_TERMS: dict[Any, tuple[str, str]] = {
    **dict.fromkeys((*SUMS, *DIFFERENCES), ("self", "other")),
    **dict.fromkeys(REVERSED_DIFFERENCES, ("other", "self")),
}


def _is_activation(graph: Graph, value: Any) -> bool:
    return isinstance(value, fx.Node) and graph.batch.get(value) is not None


def _sign(graph: Graph, value: Any, nonnegative: Collection[fx.Node]) -> int:
    """Return the sign of a constant; zero where it has both, or is not known."""
    if not isinstance(value, fx.Node):
        return int(value > 0) - int(value < 0)
    if value in nonnegative:
        return 1
    held = graph.tensors.get(str(value.target)) if value.op == "get_attr" else None
    if held is None or held.is_complex():
        return 0
    return 1 if bool((held >= 0).all()) else -1 if bool((held <= 0).all()) else 0
