"""Composite operations written out call by call, where a program overwrites nothing.

``ExportedProgram.run_decompositions`` runs the whole program three times under a tracer, operations that stay as they
are included. Here only calls of operations that are written out are traced, and of equal calls, as those of a
transformer's blocks are, one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch._C import DispatchKey
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _collect_all_valid_cia_ops as whole_in_torch
from torch._ops import OpOverload
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.export.exported_program import _override_composite_implicit_decomp as composed_by
from torch.export.exported_program import _split_decomp_table_to_cia_and_python_decomp as split_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from relprop.errors import RelpropError
from relprop.tracing.lowering.decompositions import decomposition_table, is_composite, stays_whole

aten = torch.ops.aten

_ON_SIZES = {operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg}
"""Functions of Python that compute sizes in a program, or pick a part of a tuple."""
_LEFT_TO_TORCH = {aten.lift_fresh_copy.default, aten.lift_fresh.default}
"""Operations that overwrite nothing, and that torch yet writes otherwise when it makes a program functional."""


class _NotHereError(Exception):
    """A program has something in it that only torch itself makes functional."""


def expand(program: ExportedProgram, keep: frozenset[OpOverload]) -> tuple[fx.Graph, frozenset[OpOverload]] | None:
    """Write out the composite operations of a program that overwrites nothing.

    Parameters
    ----------
    program : ExportedProgram
        As exported; it is not changed.
    keep : frozenset of OpOverload
        Operations that torch composes of others and that stay whole.

    Returns
    -------
    fx.Graph, frozenset of OpOverload, or None
        The new graph, and the composite operations that were met, kept or not. None where an operation overwrites
        something, or there is anything else that only ``run_decompositions`` does.

    Raises
    ------
    RelpropError
        Of a decomposition, as of attention with dropout.
    """
    whole = frozenset(operation for operation in whole_in_torch() if isinstance(operation, OpOverload))
    composed = {operation for operation in whole if is_composite(operation) and not stays_whole(operation)} - keep
    spellings = dict(decomposition_table(program, composed))
    expansion = _Expansion(program, frozenset(spellings), whole)
    composite, expansion.table = split_table(spellings)  # type: ignore[arg-type]
    try:
        with composed_by(composite), enable_python_dispatcher():
            expansion.run()
    except _NotHereError:
        return None
    return expansion.graph, frozenset(expansion.met)


class _Expansion:
    """One program that is being written anew.

    Parameters
    ----------
    program : ExportedProgram
        The program.
    spelled : frozenset of OpOverload
        What is written in other operations.
    whole : frozenset of OpOverload
        Composite operations that stay whole under a tracer unless they are among those.
    """

    def __init__(self, program: ExportedProgram, spelled: frozenset[OpOverload], whole: frozenset[OpOverload]) -> None:
        self.program, self.spelled, self.whole = program, spelled, whole
        self.table: Mapping[Any, Callable[..., Any]] = {}
        self.graph = fx.Graph()
        self.met: set[OpOverload] = set()
        self.traced: dict[Any, fx.Graph] = {}
        self.sizes: dict[Any, fx.Node] = {}  # by their expressions: each is computed once
        self.axes: dict[Any, tuple[fx.Node, int]] = {}  # of inputs, by the symbols of their sizes
        self.relaid: set[fx.Node] = set()  # of other strides than in the program, as its operations are others

    def run(self) -> None:
        """Write all nodes."""
        copies: dict[fx.Node, Any] = {}
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                copies[node] = self._expand(node, copies)
            elif node.op in ("placeholder", "output"):
                copies[node] = self.graph.node_copy(node, copies.__getitem__)
                copies[node].name = node.name  # by which the signature finds it; a graph renames "input" of Python
                self._note_axes(copies[node])
            else:
                raise _NotHereError(node.op)

    def _note_axes(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, SymInt):
                self.axes.setdefault(size.node.expr, (node, axis))

    def _expand(self, node: fx.Node, copies: Mapping[fx.Node, Any]) -> Any:
        """Write a call, or what it is composed of."""
        operation = node.target
        args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        if not isinstance(operation, OpOverload) or not self._is_written_out(operation):
            return self._write(node, copies, node.meta, infer=not self.relaid.isdisjoint(_nodes(args, kwargs)))
        self._note(operation)
        leaves, form = pytree.tree_flatten((args, kwargs))
        given = _nodes(args, kwargs)
        inner = self._trace(operation, leaves, form, given)
        parts = iter(given)
        written: dict[fx.Node, Any] = {}
        for part in inner.nodes:
            if part.op == "placeholder":
                written[part] = next(parts)
            elif part.op == "call_function":
                written[part] = self._write(part, written, node.meta)
            elif part.op != "output":
                raise _NotHereError(part.op)
        returned = fx.map_arg(inner.output_node().args[0], written.__getitem__)
        self._note_strides(returned, node)
        return returned

    def _note_strides(self, returned: Any, node: fx.Node) -> None:
        """Remember values that lie in memory otherwise than in the program."""
        before = node.meta["val"]
        parts = [(returned, before)] if isinstance(returned, fx.Node) else zip(returned, before, strict=True)
        for part, value in parts:
            if isinstance(part, fx.Node) and _strides(part.meta["val"]) != _strides(value):
                self.relaid.add(part)

    def _is_written_out(self, operation: OpOverload) -> bool:
        if operation in self.spelled:
            return True
        composite = operation.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
        return composite and operation not in self.whole

    def _note(self, operation: OpOverload) -> None:
        if is_composite(operation) and not stays_whole(operation):
            self.met.add(operation)

    def _write(
        self, node: fx.Node, copies: Mapping[fx.Node, Any], meta: Mapping[str, Any], *, infer: bool = False
    ) -> Any:
        """Write a call as it is; return its node, or its value if that is there already."""
        target, value = node.target, node.meta.get("val")
        args: Any
        args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        if isinstance(target, OpOverload):
            if target._schema.is_mutable or target in _LEFT_TO_TORCH:
                raise _NotHereError(str(target))
            self._note(target)
        elif target is operator.getitem and isinstance(args[0], tuple | list):
            return args[0][args[1]]
        elif target not in _ON_SIZES:
            raise _NotHereError(str(target))
        if isinstance(value, SymInt):
            return self._size(value, target, args, kwargs, meta)
        written = self.graph.call_function(target, args, kwargs)
        written.meta = {**meta, "val": _infer(target, args, kwargs) if infer else value}
        if infer:
            self._note_strides(written, node)
        return written

    def _size(self, value: SymInt, target: Any, args: Any, kwargs: Any, meta: Mapping[str, Any]) -> fx.Node:
        """Return the node that computes a size: one for each, and the batch size is read from the input."""
        expression = value.node.expr
        if expression not in self.sizes:
            if expression in self.axes:
                last = self.graph.find_nodes(op="placeholder")[-1]
                with self.graph.inserting_after(last):
                    size = self.graph.call_function(aten.sym_size.int, self.axes[expression])
                size.meta = {"val": value}
            else:
                size = self.graph.call_function(target, args, kwargs)
                size.meta = {**meta, "val": value}
            self.sizes[expression] = size
        return self.sizes[expression]

    def _trace(self, operation: OpOverload, leaves: Sequence[Any], form: Any, given: Sequence[fx.Node]) -> fx.Graph:
        """Return the operations that a call is composed of, with a placeholder for each node that it is given."""
        values = [node.meta["val"] for node in given]
        constants = [given.index(leaf) if isinstance(leaf, fx.Node) else (type(leaf), str(leaf)) for leaf in leaves]
        key = (operation, str(form), tuple(constants), tuple(map(_describe, values)))
        if key not in self.traced:

            def call(*tensors: Any) -> Any:
                standing = dict(zip(given, tensors, strict=True))
                args, kwargs = pytree.tree_unflatten([standing.get(leaf, leaf) for leaf in leaves], form)
                return operation(*args, **kwargs)

            mode = next((value.fake_mode for value in values if isinstance(value, FakeTensor)), None)
            try:
                with mode or nullcontext():
                    self.traced[key] = make_fx(call, dict(self.table))(*values).graph
            except RelpropError:
                raise
            except Exception as error:  # whatever a tracer raises: run_decompositions decides whether it is one
                raise _NotHereError(str(error)) from error
        return self.traced[key]


def _nodes(args: Any, kwargs: Any) -> list[fx.Node]:
    return list(dict.fromkeys(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, fx.Node)))


def _infer(target: Any, args: Any, kwargs: Any) -> Any:
    """Return the value of a call for those of its arguments."""
    args, kwargs = fx.map_arg((args, kwargs), lambda node: node.meta["val"])
    try:
        return target(*args, **kwargs)
    except Exception as error:  # run_decompositions decides whether it is one
        raise _NotHereError(str(error)) from error


def _strides(value: Any) -> list[Any]:
    tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
    return [[_expression(step) for step in tensor.stride()] for tensor in tensors]


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, SymInt) else size


def _describe(value: Any) -> Any:
    """Return all of an argument that the tracing of a call may depend on."""
    if isinstance(value, SymInt):
        return value.node.expr
    if type(value) is not FakeTensor:
        raise _NotHereError(type(value).__name__)
    sizes = tuple(map(_expression, (*value.shape, *value.stride())))
    return sizes, value.dtype, value.device, value.layout, value.requires_grad
