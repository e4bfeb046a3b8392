"""From text to a graph, around the tensors of a model; nothing in the text is ever executed."""

from __future__ import annotations

import ast
import base64
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from relprop.graph.graph import Graph, Marks, Origin
from relprop.tracing.disk.operations import NAMED, SIZES, is_harmless, operation_named
from rule_registry import BatchAxis


def read_graph(text: Mapping[str, Any], held: Sequence[Tensor]) -> Graph:
    """Rebuild a graph around a model's tensors, of any shape, from what `write_graph` returned.

    Raises
    ------
    ValueError, TypeError, KeyError, IndexError, AttributeError
        If it is no such description.
    """
    return _Reader(text, held).graph()


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
        if name in SIZES:
            return SIZES[name]
        found = operation_named(name)
        if not is_harmless(found):
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
        """Return the tensor of the model, or the constant of the text, that a node refers to; of any shape."""
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
    if not isinstance(found, NAMED):
        raise ValueError(f"{name} is no constant of torch")
    return found


def _read_marks(written: Any) -> Marks:
    if isinstance(written, dict):
        return tuple(None if mark is None else BatchAxis(*mark) for mark in written["parts"])
    return BatchAxis(*written)
