"""Combinations of a layer's outputs as layers of their own: a graph in which they are computed so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, fx

from relprop.graph.arguments import bind_arguments
from relprop.graph.combinations import Combination, Layer, has_samples
from relprop.graph.graph import Graph, Origin, drop_unused
from rule_registry import BatchAxis, layer_arguments
from rule_registry.operations.products import FACTORS

aten = torch.ops.aten


def fold_combinations(graph: Graph, combinations: Sequence[Combination]) -> Graph:
    """Return a graph that computes each combination by a layer with the combined weights.

    The weights are computed in the graph, so values that change later count. A combination is affine: its value for
    scores of zero is the constant, and the other coefficients are its values for each unit vector, less the constant.

    Parameters
    ----------
    graph : Graph
        As captured; it stays as it is.
    combinations : sequence of Combination
        From `relprop.graph.combinations.find_combinations`.
    """
    return _Folder(graph, combinations).graph()


class _Folder:
    """Copies a graph and puts a layer in the place of each combination."""

    def __init__(self, old: Graph, combinations: Sequence[Combination]) -> None:
        self.old = old
        self.combinations = {combination.top: combination for combination in combinations}
        self.new = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.tensors: dict[str, Tensor] = dict(old.tensors)
        self.origins: dict[fx.Node, Origin] = {}
        self.batch: dict[fx.Node, Any] = {}
        self.fake = old.output.meta["val"].fake_mode
        self.symbol = old.output.meta["val"].shape[0].node.expr

    def graph(self) -> Graph:
        replaced = self.replaced()
        for node in self.old.graph.nodes:
            if node.op == "output":
                break
            if node in replaced:
                continue
            if node in self.combinations:
                self.copies[node] = self.folded(self.combinations[node])
                continue
            copy = self.copies[node] = self.new.node_copy(node, self.copies.__getitem__)
            copy._rename(node.name)
            if node in self.old.origins:
                self.origins[copy] = self.old.origins[node]
            if node in self.old.batch:
                self.batch[copy] = self.old.batch[node]
        output = self.copies[self.old.output]
        self.new.output(output)
        drop_unused(self.new)
        self.new.lint()
        kept = set(self.new.nodes)
        return replace(
            self.old,
            graph=self.new,
            inputs=tuple(self.copies[node] for node in self.old.inputs),
            output=output,
            tensors=self.tensors,
            origins={node: origin for node, origin in self.origins.items() if node in kept},
            batch={node: mark for node, mark in self.batch.items() if node in kept},
            made={},
        )

    def replaced(self) -> set[fx.Node]:
        """Return what nobody reads any more: its names are free for the layers with combined weights."""
        behind = {node for c in self.combinations.values() for node in c.operations}
        for combination in self.combinations.values():
            behind.update(node for layer in combination.layers for node in (layer.layer, *layer.pools))
        found: set[fx.Node] = set()
        for node in reversed(self.old.graph.nodes):
            read = (user for user in node.users if user not in found and user not in self.combinations)
            if node in behind and node not in self.combinations and not any(read):
                found.add(node)
        return found

    def folded(self, combination: Combination) -> fx.Node:
        """Add the layers that are the combination, and their sum; return what stands in its place."""
        where = self.old.origins[combination.top]
        shape = list(combination.top.meta["val"].shape[1:])
        folded = [(layer, *self.coefficients(combination, layer)) for layer in combination.layers]
        if combination.sign < 0:
            folded = [
                (layer, self.emit(aten.neg.default, rows), self.emit(aten.neg.default, constant))
                for layer, rows, constant in folded
            ]
        _, _, constant = folded[0]
        alone = len(folded) == 1
        total, *parts = (self.layer(layer, rows, constant if alone else None) for layer, rows, _ in folded)
        for part in parts:
            total = self.active(where, aten.add.Tensor, total, part)
        if not alone:  # it is none of the layers' own
            total = self.active(where, aten.add.Tensor, total, constant)
        if combination.sign < 0:
            total = self.active(where, aten.neg.default, total)
        if not shape:
            return self.active(where, aten.select.int, total, 1, 0)
        return total if len(shape) == 1 else self.active(where, aten.unflatten.int, total, 1, shape)

    def coefficients(self, combination: Combination, layer: Layer) -> tuple[fx.Node, fx.Node]:
        """Return how the scores of a layer count, ``(K, C)`` for the K entries of the combination, and the constant."""
        size = layer.scores.meta["val"].shape[1]
        values = {other.scores: self.held(self.zeros(other, size + 1), "zeros") for other in combination.layers}
        units = self.zeros(layer, size + 1)
        units[1:].flatten(1).fill_diagonal_(1)
        values[layer.scores] = self.held(units, "units")
        for node in self.old.graph.nodes:
            if node in combination.operations:
                values[node] = self.evaluated(node, values, size + 1)
        flat = self.emit(aten.reshape.default, values[combination.top], [size + 1, -1])
        constant = self.emit(aten.select.int, flat, 0, 0)
        rows = self.emit(aten.slice.Tensor, flat, 0, 1, size + 1)
        return self.emit(aten.t.default, self.emit(aten.sub.Tensor, rows, constant)), constant

    def evaluated(self, node: fx.Node, values: dict[fx.Node, fx.Node], samples: int) -> fx.Node:
        """Copy an operation, and what it needs beside the scores, for so many samples."""

        def value(argument: fx.Node) -> fx.Node | int:
            if argument in values:
                return values[argument]
            if isinstance(argument.meta["val"], torch.SymInt):
                return int(argument.meta["val"].node.expr.subs(self.symbol, samples))
            if has_samples(argument):  # an index that counts them, say
                values[argument] = self.evaluated(argument, values, samples)
                return values[argument]
            return self.copies[argument]

        arguments: Any = fx.map_arg((node.args, node.kwargs), value)
        return self.emit(node.target, *arguments[0], **arguments[1])

    def layer(self, layer: Layer, rows: fx.Node, constant: fx.Node | None) -> fx.Node:
        """Add a layer with combined weights, and the averages behind it, as ``(B, K)``."""
        node, where = layer.layer, self.old.origins[layer.layer]
        target: Any = node.target
        given = bind_arguments(node, fx.map_arg(node.args, self.copies.__getitem__), node.kwargs)
        if target in FACTORS:
            source, weight = (given[name] for name in FACTORS[target])
            weight, bias, rest = self.emit(aten.t.default, weight), given.get("self"), {}
            bias = None if bias is source else bias
            target, names = aten.linear.default, ("input", "weight", "bias")
        else:
            declared = layer_arguments(target)
            assert declared is not None and declared.bias is not None  # noqa: PT018
            names = ("input", declared.weights[0], declared.bias)
            source, weight, bias = (given.pop(name, None) for name in names)
            rest = given
        flat = self.emit(aten.flatten.using_ints, weight, 1)
        combined = self.emit(aten.matmul.default, rows, flat)
        combined = self.emit(aten.reshape.default, combined, [-1, *weight.meta["val"].shape[1:]])
        shift = None if bias is None else self.emit(aten.matmul.default, rows, bias)
        if shift is not None and constant is not None:
            shift = self.emit(aten.add.Tensor, shift, constant)
        arguments = dict(zip(names, (source, combined, constant if shift is None else shift), strict=True))
        order = [argument.name for argument in target._schema.arguments]
        given = {name: value for name, value in {**arguments, **rest}.items() if value is not None}
        placed = [given.pop(name) for name in list(takewhile(given.__contains__, order))]  # as captures spell it
        value = self.active(where, target, *placed, **given)
        value._rename(node.name)
        for pool in layer.pools:
            held = {pool.args[0]: value}
            args = fx.map_arg(pool.args, lambda n, held=held: held.get(n) or self.copies[n])  # type: ignore[misc]
            value = self.active(self.old.origins[pool], pool.target, *args, **pool.kwargs)
        axes = value.meta["val"].ndim
        return value if axes == 2 else self.active(where, aten.flatten.using_ints, value, 1)

    def active(self, where: Origin, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add an operation on samples."""
        node = self.emit(target, *args, **kwargs)
        self.origins[node], self.batch[node] = where, BatchAxis(0)
        return node

    def emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add an operation, and find out by its inputs what its value looks like."""
        node = self.new.call_function(target, args, kwargs)
        with self.fake:
            values = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
            node.meta["val"] = target(*values[0], **values[1])
        self.origins[node] = Origin()
        return node

    def zeros(self, layer: Layer, samples: int) -> Tensor:
        """Return scores of zero for so many samples, ``(samples, C)`` or ``(samples, C, 1, ...)``."""
        value = layer.scores.meta["val"]
        return torch.zeros(samples, *value.shape[1:], dtype=value.dtype, device=value.device)

    def held(self, tensor: Tensor, name: str) -> fx.Node:
        """Add a constant of any shape under a name that no other tensor has."""
        while name in self.tensors or hasattr(fx.GraphModule, name):
            name += "_"
        self.tensors[name] = tensor
        node = self.new.get_attr(name)
        node.meta["val"] = self.fake.from_tensor(tensor)
        return node
