"""The captured graph: ATen operations, where each comes from, and the tensors they refer to."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from rule_registry import BatchAxis

aten = torch.ops.aten

Marks = BatchAxis | tuple[BatchAxis | None, ...] | None


@dataclass(frozen=True)
class Origin:
    """Where an operation comes from in the user's model.

    Parameters
    ----------
    path, module_type : str
        Path and class of the innermost module (``""``: the model itself).
    calls : tuple of (str, str)
        Path of every module around it, outermost first, each with a key that tells its calls apart.
    line : str
        The source line, ``file:line: code``; empty if unknown.
    """

    path: str = ""
    module_type: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    line: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as one functional graph of ATen operations, dynamic in the batch unless it is that of one sample.

    Parameters
    ----------
    graph : fx.Graph
        Placeholders are the inputs, ``get_attr`` nodes the held tensors.
    inputs : tuple of fx.Node
        One placeholder per tensor among the flattened inputs.
    output : fx.Node
        The output to be explained.
    tensors : mapping
        The model's own parameter, buffer and constant objects, of any shape, by node target.
    parameters : frozenset of str
        Those that are parameters.
    origins : mapping
        Where each operation comes from.
    batch : mapping
        Where the samples lie in the value of each node; filled in by `relprop.tracing.batch_axis`.
    made : dict
        What was made from this graph and is kept with it: programs, by what they depend on.
    """

    graph: fx.Graph
    inputs: tuple[fx.Node, ...]
    output: fx.Node
    tensors: Mapping[str, Tensor]
    parameters: frozenset[str]
    origins: Mapping[fx.Node, Origin]
    batch: dict[fx.Node, Marks] = field(default_factory=dict)
    made: dict[Any, Any] = field(default_factory=dict)

    def calls(self) -> Iterator[fx.Node]:
        """Yield the operations, in order."""
        return (node for node in self.graph.nodes if node.op == "call_function")

    @property
    def precision(self) -> torch.dtype:
        """The least precise type among the activations': some norms compute in 32 bits whatever their input is."""
        values = (leaf for node, mark in self.batch.items() if mark for leaf in pytree.tree_leaves(node.meta["val"]))
        types = {v.dtype for v in values if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())}
        return max(types, key=lambda dtype: torch.finfo(dtype).eps)

    @property
    def alone(self) -> bool:
        """Whether it is the graph of one sample: its model loops over samples, say, and has no one graph for more."""
        sizes = [node.meta["val"].shape[0] for node in self.inputs if self.batch.get(node) is not None]
        return bool(sizes) and all(isinstance(size, int) for size in sizes)

    def axis(self, node: fx.Node) -> BatchAxis:
        """Return where the samples lie in a tensor that has them."""
        mark = self.batch[node]
        assert isinstance(mark, BatchAxis), "a tuple of tensors has an axis for each, and a constant has none"
        return mark

    def module(self) -> fx.GraphModule:
        """Return the forward pass alone, as a module."""
        return fx.GraphModule(dict(self.tensors), self.graph)

    def describe(self, node: fx.Node) -> str:
        """Say in one line what a node is and where it comes from."""
        origin = self.origins[node]
        where = f"{origin.path or 'the model'} ({origin.module_type.rpartition('.')[2]})"
        return f"{node.target} in {where}" + (f", {origin.line}" if origin.line else "")


ROOT = "relprop_model"
"""Path of the user's model where an exported program wraps it; paths start there."""


def drop_unused(graph: fx.Graph) -> None:
    """Erase every node whose value nobody uses, inputs apart."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def operation_name(node: fx.Node) -> str:
    """Short name of a node's operation, as in ``layer_norm``."""
    target: Any = node.target
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, OpOverload):
        return str(target.overloadpacket.__name__).strip("_")
    return str(getattr(target, "__name__", target))
