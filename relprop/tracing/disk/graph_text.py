"""A captured graph as plain lists and texts, and back: nothing in them is ever carried out.

An operation is named, and only functional operations of PyTorch's registry and arithmetic on sizes may be. Weights are
no part: the graph refers to the tensors that a model holds by their place.
"""

from __future__ import annotations

import ast
import base64
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor, fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from relprop.graph.graph import Graph, Marks, Origin
from rule_registry import BatchAxis

_SIZES: Mapping[str, Callable[..., Any]] = {
    **{f"operator.{f.__name__}": f for f in (operator.getitem, operator.add, operator.sub, operator.mul)},
    **{f"operator.{f.__name__}": f for f in (operator.floordiv, operator.mod, operator.neg, operator.pow)},
    **{f"operator.{f.__name__}": f for f in (operator.truediv, operator.eq, operator.ge, operator.le)},
    **{f"math.{f.__name__}": f for f in (math.ceil, math.floor, math.trunc)},
    **{f"torch.{f.__name__}": f for f in (torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float)},
}
"""Operations that are none of the registry's."""
_FACTORIES = {
    *("aten::arange", "aten::empty", "aten::eye", "aten::full", "aten::linspace", "aten::ones", "aten::zeros"),
    *("aten::scalar_tensor", "aten::tril_indices", "aten::triu_indices"),
}
"""Operations without a tensor among their inputs; others of that kind reach beyond tensors, to files for example."""
_NAMED = (torch.dtype, torch.layout, torch.memory_format, torch.device)
_LARGEST = 1 << 20
"""Bytes of a constant that is written with the graph."""


class NotWritableError(Exception):
    """A graph, or what it depends on, that can't be written as plain text; it is captured every time."""


def write_graph(graph: Graph, held: Sequence[Tensor]) -> dict[str, Any]:
    """Describe a graph in lists, texts and numbers.

    Parameters
    ----------
    graph : Graph
        As captured.
    held : sequence of Tensor
        The tensors that the model holds, in an order that a model of the same structure has, too.

    Raises
    ------
    NotWritableError
        If it holds something that has no plain description.
    """
    places = {id(tensor): place for place, tensor in enumerate(held)}
    origins: dict[Origin, int] = {}
    nodes = [
        {
            "op": node.op,
            "name": node.name,
            "target": _write_target(node),
            "args": _write(node.args),
            "kwargs": _write(node.kwargs),
            "value": _write_value(node.meta.get("val")),
            "origin": origins.setdefault(graph.origins[node], len(origins)) if node in graph.origins else None,
            "batch": _write_marks(graph.batch.get(node)),
        }
        for node in graph.graph.nodes
    ]
    return {
        "nodes": nodes,
        "origins": [[o.path, o.module_type, [list(call) for call in o.calls], o.line] for o in origins],
        "inputs": [node.name for node in graph.inputs],
        "output": graph.output.name,
        "batch": str(next(node for node in graph.inputs if node in graph.batch).meta["val"].shape[0]),
        "tensors": {
            name: places[id(tensor)] if id(tensor) in places else _write_constant(tensor)
            for name, tensor in graph.tensors.items()
        },
        "parameters": sorted(graph.parameters),
    }


def read_graph(text: Mapping[str, Any], held: Sequence[Tensor]) -> Graph:
    """Rebuild a graph from `write_graph`'s description, around the tensors of a model.

    Raises
    ------
    ValueError, TypeError, KeyError, IndexError, AttributeError
        If it is no such description.
    """
    return _Reader(text, held).graph()


def operation_named(name: str) -> OpOverload:
    """Return the operation that calls itself so, as in ``aten::add.Tensor``.

    Raises
    ------
    ValueError, AttributeError
        If there is none.
    """
    operation, _, overload = name.partition(".")
    space, _, packet = operation.partition("::")
    found = getattr(getattr(getattr(torch.ops, space), packet), overload or "default")
    if not isinstance(found, OpOverload):
        raise ValueError(f"{name} is no operation")
    return found


def _write_target(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, OpOverload):
        if not _is_harmless(target):
            raise NotWritableError(f"the operation {target}")
        return str(target.name())
    for name, function in _SIZES.items():
        if target is function:
            return name
    raise NotWritableError(f"the operation {target}")


def _is_harmless(operation: OpOverload) -> bool:
    """Whether an operation only computes: it changes none of its inputs, and reaches for nothing else than these."""
    schema = operation._schema
    takes = any("Tensor" in str(argument.type) for argument in schema.arguments)
    return not schema.is_mutable and (takes or schema.name in _FACTORIES)


def _write(value: Any) -> Any:
    """Write an argument: numbers and texts as they are, everything else as a list that begins with its kind."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return ["float", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real.hex(), value.imag.hex()]
    if isinstance(value, fx.Node):
        return ["node", value.name]
    if isinstance(value, _NAMED):
        return [type(value).__name__, str(value)]
    if isinstance(value, slice):
        return ["slice", *map(_write, (value.start, value.stop, value.step))]
    if isinstance(value, dict):
        return {str(key): _write(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", *map(_write, value)]
    raise NotWritableError(f"an argument of type {type(value).__name__}")


def _write_value(value: Any) -> Any:
    """Write what is known of a node's value: sizes, strides, type and device of a tensor."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        sizes, strides = [str(n) for n in value.shape], [str(n) for n in value.stride()]
        return ["tensor", sizes, strides, str(value.dtype), str(value.device)]
    if isinstance(value, SymInt | int):
        return ["size", str(value)]
    if isinstance(value, list | tuple):
        return ["values", *map(_write_value, value)]
    raise NotWritableError(f"a value of type {type(value).__name__}")


def _write_marks(marks: Marks) -> Any:
    if isinstance(marks, BatchAxis):
        return [marks.axis, marks.factor, marks.outer]
    return None if marks is None else {"parts": [_write_marks(mark) for mark in marks]}


def _write_constant(tensor: Tensor) -> list[Any]:
    plain = tensor.detach().cpu().contiguous()
    if plain.numel() * plain.element_size() > _LARGEST:
        raise NotWritableError(f"a constant of shape {tuple(tensor.shape)}")
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return [base64.b64encode(data).decode(), list(tensor.shape), str(tensor.dtype), str(tensor.device)]


class _Reader:
    """Rebuilds one graph."""

    def __init__(self, text: Mapping[str, Any], held: Sequence[Tensor]) -> None:
        self.text = text
        self.held = held
        self.nodes: dict[str, fx.Node] = {}
        self.values: dict[str, Any] = {}  # many are alike, and making one takes longest
        environment = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=environment)
        source = torch._dynamo.source.ConstantSource("batch")
        symbol = environment.create_symbol(2, source, DimDynamic.DYNAMIC, None)
        self.batch = environment.create_symintnode(symbol, hint=2, source=source)

    def graph(self) -> Graph:
        text, graph = self.text, fx.Graph()
        origins = [
            Origin(path, kind, tuple((key, called) for key, called in calls), line)
            for path, kind, calls, line in text["origins"]
        ]
        where: dict[fx.Node, Origin] = {}
        batch: dict[fx.Node, Marks] = {}
        for entry in text["nodes"]:
            target, args, kwargs = self.target(entry), self.read(entry["args"]), self.read(entry["kwargs"])
            node = graph.create_node(entry["op"], target, args, kwargs, name=entry["name"])
            if node.name != entry["name"]:
                raise ValueError(f"the name {entry['name']!r} is there twice")
            self.nodes[node.name] = node
            if entry["op"] != "output":
                node.meta["val"] = self.remembered(entry["value"])
            if entry["origin"] is not None:
                where[node] = origins[entry["origin"]]
            if entry["batch"] is not None:
                batch[node] = _read_marks(entry["batch"])
        graph.lint()
        return Graph(
            graph,
            tuple(self.nodes[name] for name in text["inputs"]),
            self.nodes[text["output"]],
            {name: self.tensor(value) for name, value in text["tensors"].items()},
            frozenset(text["parameters"]),
            where,
            batch,
        )

    def target(self, entry: Mapping[str, Any]) -> Any:
        name = entry["target"]
        if entry["op"] != "call_function":
            return name
        if name in _SIZES:
            return _SIZES[name]
        found = operation_named(name)
        if not _is_harmless(found):
            raise ValueError(f"{name} is no operation of a captured graph")
        return found

    def read(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.read(item) for key, item in value.items()}
        if not isinstance(value, list):
            return value
        kind, *parts = value
        if kind in ("list", "tuple"):
            items = [self.read(part) for part in parts]
            return items if kind == "list" else tuple(items)
        if kind == "float":
            return float.fromhex(parts[0])
        if kind == "complex":
            return complex(*map(float.fromhex, parts))
        if kind == "node":
            return self.nodes[parts[0]]
        if kind == "slice":
            return slice(*map(self.read, parts))
        if kind == "device":
            return torch.device(parts[0])
        return _constant_of_torch(parts[0])

    def remembered(self, written: Any) -> Any:
        spelled = str(written)
        if spelled not in self.values:
            self.values[spelled] = self.value(written)
        return self.values[spelled]

    def value(self, written: Any) -> Any:
        if written is None:
            return None
        kind, *parts = written
        if kind == "values":
            return tuple(map(self.value, parts))
        if kind == "size":
            return self.size(parts[0])
        sizes, strides, dtype, device = parts
        with self.mode:
            return torch.empty_strided(
                [self.size(n) for n in sizes],
                [self.size(n) for n in strides],
                dtype=_constant_of_torch(dtype),
                device=torch.device(device),
            )

    def size(self, expression: str) -> Any:
        return int(expression) if expression.isdecimal() else self.evaluated(ast.parse(expression, mode="eval").body)

    def evaluated(self, node: ast.expr) -> Any:
        """Compute a size of the number of samples: sums, products, quotients, extremes, and nothing else."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id == self.text["batch"]:
            return self.batch
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return _ARITHMETIC[type(node.op)](self.evaluated(node.left), self.evaluated(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            return reduce(_FUNCTIONS[node.func.id], map(self.evaluated, node.args))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.evaluated(node.operand)
        raise ValueError("a size that is no arithmetic of the number of samples")

    def tensor(self, written: Any) -> Tensor:
        if isinstance(written, int):
            return self.held[written]
        data, shape, dtype, device = written
        flat = torch.from_numpy(np.frombuffer(base64.b64decode(data), dtype=np.uint8).copy())
        return flat.view(_constant_of_torch(dtype)).reshape(shape).to(device)


_ARITHMETIC: Mapping[type[ast.operator], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Max": torch.sym_max,
    "Min": torch.sym_min,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
}


def _constant_of_torch(name: str) -> Any:
    """Return the type, layout or memory format of a name such as ``torch.float32``."""
    found = getattr(torch, name.removeprefix("torch."))
    if not isinstance(found, _NAMED):
        raise ValueError(f"{name} is no constant of torch")
    return found


def _read_marks(written: Any) -> Marks:
    if isinstance(written, dict):
        return tuple(None if mark is None else BatchAxis(*mark) for mark in written["parts"])
    return BatchAxis(*written)
