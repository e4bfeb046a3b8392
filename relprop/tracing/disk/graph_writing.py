"""From a graph to text: plain lists, texts and numbers.

Weights are no part: the graph refers to the tensors that a model holds by their place.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch._ops import OpOverload

from relprop.graph.graph import Graph, Marks, Origin
from relprop.tracing.disk.operations import NAMED, SIZES, is_harmless
from rule_registry import BatchAxis

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
        The tensors that the model holds, of any shape, in an order that a model of the same structure has, too.

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


def _write_target(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, OpOverload):
        if not is_harmless(target):
            raise NotWritableError(f"the operation {target}")
        return str(target.name())
    for name, function in SIZES.items():
        if target is function:
            return name
    raise NotWritableError(f"the operation {target}")


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
    if isinstance(value, NAMED):
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
    """Write a constant tensor of any shape: its entries, its shape, its type and its device."""
    plain = tensor.detach().cpu().contiguous()
    if plain.numel() * plain.element_size() > _LARGEST:
        raise NotWritableError(f"a constant of shape {tuple(tensor.shape)}")
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return [base64.b64encode(data).decode(), list(tensor.shape), str(tensor.dtype), str(tensor.device)]
