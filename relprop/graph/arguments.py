"""The arguments of an operation by the names in its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch._ops import OpOverload

from rule_registry import Slot


def argument_names(node: fx.Node) -> list[str]:
    """Return the names in the schema of an operation."""
    assert isinstance(node.target, OpOverload)
    return [argument.name for argument in node.target._schema.arguments]


def bind_arguments(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation that are given, by their names in its schema."""
    return {**dict(zip(argument_names(node), args, strict=False)), **kwargs}


def argument_nodes(node: fx.Node) -> list[tuple[Slot, fx.Node]]:
    """Return the nodes among the arguments of an operation, by slot, in the order of its schema."""
    bound = bind_arguments(node, node.args, node.kwargs)
    found = []
    for name in argument_names(node):
        value = bound.get(name)
        if isinstance(value, fx.Node):
            found.append((Slot(name), value))
        elif isinstance(value, list | tuple):
            found += [(Slot(name, k), item) for k, item in enumerate(value) if isinstance(item, fx.Node)]
    return [(slot, value) for slot, value in found if isinstance(value.meta.get("val"), Tensor)]
