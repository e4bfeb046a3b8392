"""Values that samples look up: what an integer input chooses from a table, by whatever spelling.

Integers are followed from the input on through moves and through operations on single entries. So each value has an
entry of the input that chose it. Integers that choose among values of the samples, as masks do, bring no values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

import rule_registry
from relprop.graph.dataflow import value_inputs
from relprop.graph.graph import Graph
from rule_registry import weights_of

aten = torch.ops.aten

MOVED = -1
"""In the place of a number of axes: the operation itself, with positions in the place of its input."""


@dataclass(frozen=True)
class Reading:
    """How an operation reads integers: which, and how many axes of its output lie behind theirs.

    Parameters
    ----------
    integers : tuple of fx.Node
        Inputs that hold integers of samples.
    behind : int
        So many axes are behind those of the integers: one for a vector of each. `MOVED` where all is only moved.
    """

    integers: tuple[fx.Node, ...]
    behind: int


@dataclass(frozen=True, eq=False)
class Lookups:
    """The values that integer inputs bring.

    Parameters
    ----------
    inputs : tuple of fx.Node
        Inputs that bring such values.
    values : tuple of fx.Node
        The looked-up values.
    readings : mapping of fx.Node to Reading
        How each of these, and each operation between, reads integers, in graph order.
    """

    inputs: tuple[fx.Node, ...] = ()
    values: tuple[fx.Node, ...] = ()
    readings: Mapping[fx.Node, Reading] = field(default_factory=dict)


def find_lookups(graph: Graph) -> Lookups:
    """Find what integer inputs look up in tables, and numbers that go into a layer as they are."""
    if graph not in _kept:
        _kept[graph] = _Finder(graph).lookups()
    return _kept[graph]


_kept: WeakKeyDictionary[Graph, Lookups] = WeakKeyDictionary()


class _Finder:
    """Follows the integers of one graph to the values that they look up."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.starts = [node for node in graph.inputs if graph.batch.get(node) is not None and _is_integer(node)]
        self.readings: dict[fx.Node, Reading] = {}
        self.numbers: dict[fx.Node, set[fx.Node]] = {}
        """Real numbers that are made of integers alone, with the first ones on the way to each."""
        self.found: set[fx.Node] = set()
        self.parameters = {
            node for node in graph.graph.nodes if node.op == "get_attr" and str(node.target) in graph.parameters
        }

    def lookups(self) -> Lookups:
        of_samples = {node for node in self.graph.inputs if self.graph.batch.get(node) is not None}
        for node in self.graph.calls():
            values = value_inputs(node)
            if of_samples.isdisjoint(values):
                if not self.parameters.isdisjoint(values):
                    self.parameters.add(node)
                continue
            of_samples.add(node)
            self.follow(node, [value for value in values if value in of_samples])
        inputs, needed = self.needed()
        return Lookups(inputs, tuple(node for node in self.graph.calls() if node in self.found), needed)

    def follow(self, node: fx.Node, values: list[fx.Node]) -> None:
        """Follow integers, and numbers made of them, through one operation."""
        integers = tuple(value for value in values if value in self.starts or self.is_followed(value))
        if not isinstance(node.meta.get("val"), Tensor) or not isinstance(node.target, OpOverload):
            return
        if len(integers) == len(values):
            behind = _axes_behind(node, integers)
            if behind is None:
                return
            self.readings[node] = Reading(integers, behind)
            if not _is_integer(node):
                self.numbers[node] = {node}
                if node.target in _TABLES or self.meets_parameter(node):
                    self.found.add(node)
        elif all(value in self.numbers for value in values):
            first = set().union(*(self.numbers[value] for value in values))
            if self.enters_layer(node, values) or self.meets_parameter(node):
                self.found |= first
            elif _is_pointwise(node) or node.target in _moves():
                self.numbers[node] = first

    def is_followed(self, node: fx.Node) -> bool:
        """Whether a node holds integers made of those of inputs."""
        return node in self.readings and _is_integer(node)

    def meets_parameter(self, node: fx.Node) -> bool:
        """Whether entries meet those of a parameter, as one-hot rows times a table do."""
        return _is_pointwise(node) and any(
            value in self.parameters and value.meta["val"].numel() > 1 for value in node.all_input_nodes
        )

    def enters_layer(self, node: fx.Node, values: Collection[fx.Node]) -> bool:
        """Whether an operation multiplies with a matrix that is the same for all samples."""
        target: Any = node.target
        others = [value for value in node.all_input_nodes if value not in values]
        return bool(weights_of(target)) and any(value.meta["val"].ndim >= 2 for value in others if _is_tensor(value))

    def needed(self) -> tuple[tuple[fx.Node, ...], dict[fx.Node, Reading]]:
        """Return the inputs that bring values, and the readings on the way."""
        wanted = set(self.found)
        for node in reversed(self.readings):
            if node in wanted:
                wanted.update(self.readings[node].integers)
        inputs = tuple(node for node in self.starts if node in wanted)
        return inputs, {node: reading for node, reading in self.readings.items() if node in wanted}


_TABLES = {
    aten.embedding.default: "indices",
    aten.index.Tensor: "indices",
    aten.index_select.default: "index",
    aten.gather.default: "index",
    aten.take.default: "index",
}
"""Operations that read a table, and the argument that says where."""


def _axes_behind(node: fx.Node, integers: tuple[fx.Node, ...]) -> int | None:
    """Return how many axes of the output are behind those of the integers, see `Reading`; None where it is unclear."""
    target: Any = node.target
    if target in _TABLES and node.args[0] not in integers:
        table: int = node.args[0].meta["val"].ndim  # type: ignore[union-attr]
        if target == aten.embedding.default:
            return 1
        if target == aten.index_select.default:
            return table - 1 - int(node.args[1]) % table  # type: ignore[arg-type]
        if target == aten.index.Tensor:
            places = [k for k, index in enumerate(node.args[1]) if index is not None]  # type: ignore[arg-type]
            return table - 1 - places[-1] if places[-1] - places[0] == len(places) - 1 else None
        return 0
    if target in _CASTS or _is_pointwise(node):
        return 0
    return MOVED if len(integers) == 1 and target in _moves() else None


_CASTS = {aten._to_copy.default, aten.clone.default, aten.alias.default}


def _moves() -> Collection[OpOverload]:
    return {op for op, rule in rule_registry.get("structural").table.items() if rule.moves}


def _is_pointwise(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _is_integer(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
