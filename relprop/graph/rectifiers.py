"""Operations whose output only rectifiers read: there the premise of absLRP holds by the model's own design."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

import rule_registry
from relprop.graph.arguments import argument_nodes, bind_arguments
from relprop.graph.dataflow import value_inputs
from relprop.graph.graph import Graph
from rule_registry.operations.elementwise import PRODUCTS, QUOTIENTS

aten = torch.ops.aten


def is_rectifier(target: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether the output is positive where the input is, and zero elsewhere."""
    if target in (aten.clamp.default, aten.clamp_min.default):
        return bool(arguments.get("min") == 0)
    return target in (aten.relu.default, aten.relu6.default) or (
        target == aten.hardtanh.default and arguments.get("min_val", -1) == 0
    )


def before_rectifiers(graph: Graph) -> set[fx.Node]:
    """Return the operations whose output goes into rectifiers alone, through moves and positive scalars at most."""
    found: set[fx.Node] = set()
    for node in reversed(list(graph.calls())):
        readers = [user for user in node.users if user.op == "output" or node in value_inputs(user)]
        if readers and all(_rectifies(user) or (user in found and _is_inert(user)) for user in readers):
            found.add(node)
    return found


def _rectifies(node: fx.Node) -> bool:
    return node.op == "call_function" and is_rectifier(node.target, _arguments(node))


def _is_inert(node: fx.Node) -> bool:
    """Whether a node moves its one input, or multiplies it with a positive number."""
    if node.target in PRODUCTS or node.target in QUOTIENTS:
        factor = _arguments(node)["other"]
        return isinstance(factor, int | float) and factor > 0
    moves = node.target in rule_registry.get("structural").table
    return moves and len(argument_nodes(node)) == 1


def _arguments(node: fx.Node) -> dict[str, Any]:
    return bind_arguments(node, node.args, node.kwargs) if isinstance(node.target, torch._ops.OpOverload) else {}
