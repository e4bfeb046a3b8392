"""In-place operations written as their out-of-place twins before lowering, where nobody can see a difference."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch._C import DispatchKey
from torch._ops import OpOverload

aten = torch.ops.aten

_FRESH = {
    aten.batch_norm.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.group_norm.default,
    aten.instance_norm.default,
    aten.layer_norm.default,
    aten.linear.default,
    aten.matmul.default,
}
"""Composite operations that always return new memory. Others may return their input, as dropout does."""


def leave_out_dropout(graph: fx.Graph) -> None:
    """Put the input of each dropout that drops nothing in its place.

    The dropout returns its input itself, so that whatever is written into one is written into the other. PyTorch 2.10
    lowers it to a copy, and such a write would be lost.

    Parameters
    ----------
    graph : fx.Graph
        Of an exported program; it is changed.
    """
    for node in graph.find_nodes(op="call_function", target=aten.dropout.default):
        source, _, train = node.args
        # The program's signature knows an output by its name.
        if not train and graph.output_node() not in node.users:
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def write_out_of_place(graph: fx.Graph) -> None:
    """Replace each operation that overwrites new memory of which it is the only reader.

    Lowering makes a graph functional in any case, and so decides what all the others mean. But it infers the shapes
    of an in-place operation under the tracer, which records every question about a size: of MobileNets and their kin
    with a dynamic batch that is most of the time lowering takes.

    Parameters
    ----------
    graph : fx.Graph
        Of an exported program; it is changed.
    """
    for node in graph.nodes:
        twin = _twin(node.target) if isinstance(node.target, OpOverload) else None
        if twin is not None and _is_only_reader(node) and _in_one_precision(node):
            node.target = twin


def _twin(operation: OpOverload) -> OpOverload | None:
    """Return the operation that computes the same into new memory."""
    space, _, name = operation._schema.name.partition("::")
    if space != "aten" or not name.endswith("_") or name.endswith("__"):
        return None
    twin = getattr(getattr(aten, name[:-1], None), operation._overloadname, None)
    if not isinstance(twin, OpOverload) or _parameters(twin) != _parameters(operation):
        return None
    return twin if _returns_new_memory(twin) else None


def _parameters(operation: OpOverload) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in operation._schema.arguments]


def _returns_new_memory(operation: OpOverload) -> bool:
    if any(value.alias_info is not None for value in operation._schema.returns):
        return False
    composite = operation.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    return operation in _FRESH or not composite


def _is_only_reader(node: fx.Node) -> bool:
    source = node.args[0]
    return (
        isinstance(source, fx.Node)
        and list(source.users) == [node]
        and isinstance(source.target, OpOverload)
        and source.target.namespace == "aten"
        and _returns_new_memory(source.target)
    )


def _in_one_precision(node: fx.Node) -> bool:
    """Whether all that is read has the precision of what is overwritten, which else decides on that of the result."""
    values = [source.meta.get("val") for source in node.all_input_nodes]
    dtypes = {value.dtype if isinstance(value, Tensor) else None for value in values}
    return len(dtypes) == 1 and all(dtype is not None and dtype.is_floating_point for dtype in dtypes)
