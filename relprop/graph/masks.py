"""Masked activations: which may hold minus infinity, or what stands for it, by the graph alone."""

from __future__ import annotations

from typing import Any

from torch import fx

import rule_registry
from relprop.graph.graph import Graph
from rule_registry.call import ELEMENTWISE, HUGE


def masked_nodes(graph: Graph) -> set[fx.Node]:
    """Return the nodes that a mask was written into or added to: attention logits, up to the softmax.

    What stands for minus infinity is written in the graph, or held by the model. In an activation it passes sums,
    products and moves. Any other operation makes something finite of it, or nothing that can be explained.
    """
    through = {*ELEMENTWISE, *rule_registry.get("structural").table}
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            masked = _holds(graph, str(node.target))
        elif node.op == "call_function" and (node.target in through or graph.batch.get(node) is None):
            masked = any(map(_stands_for_infinity, node.args)) or not found.isdisjoint(node.all_input_nodes)
        else:
            masked = False
        if masked:
            found.add(node)
    return found


def _stands_for_infinity(value: Any) -> bool:
    return isinstance(value, float) and value <= -HUGE


def _holds(graph: Graph, name: str) -> bool:
    tensor = graph.tensors[name]
    return name not in graph.parameters and tensor.is_floating_point() and bool((tensor <= -HUGE).any())
