"""Views that suit the memory of an operation, and not that of the operations it is written out in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch._ops import OpOverload

aten = torch.ops.aten


def copy_before_views(graph: fx.Graph) -> bool:
    """Let each view look at memory in order, where nothing is written through it.

    Fused attention returns heads and tokens in the order that a view merges them in. What it is written out in returns
    them in another one, of which there is no such view.

    Parameters
    ----------
    graph : fx.Graph
        Of an exported program; it is changed.

    Returns
    -------
    bool
        Whether there was such a view.
    """
    views = [node for node in graph.nodes if node.target is aten.view.default and not _is_overwritten(node)]
    for view in views:
        with graph.inserting_before(view):
            ordered = graph.call_function(aten.contiguous.default, (view.args[0],))
        ordered.meta = dict(view.args[0].meta)
        view.replace_input_with(view.args[0], ordered)
    return bool(views)


def _is_overwritten(view: fx.Node) -> bool:
    """Whether an operation writes into the memory that a view shares."""
    owner = view
    while owner.op == "call_function" and _is_alias(owner):
        owner = owner.all_input_nodes[0]
    if owner.op != "call_function":  # an input, parameter or buffer
        return True
    return any(_writes(user) for alias in _aliases(owner) for user in alias.users)


def _aliases(owner: fx.Node) -> Iterator[fx.Node]:
    """Yield a value and all that may share its memory."""
    yield owner
    for user in owner.users:
        if _is_alias(user):
            yield from _aliases(user)


def _is_alias(node: fx.Node) -> bool:
    """Whether a call returns memory of its first argument, or may do so."""
    operation = node.target
    if not isinstance(operation, OpOverload):  # a part of a tuple
        return bool(node.all_input_nodes)
    views = any(value.alias_info is not None for value in operation._schema.returns)
    return views or operation in (aten.reshape.default, aten.contiguous.default, aten.dropout.default)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable
