"""Softmaxes and sigmoids that a model writes out: as ratios, exponentials, and differences of logarithms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import fx

from relprop.graph.arguments import argument_nodes
from relprop.graph.dataflow import carries_relevance

aten = torch.ops.aten

SOFTMAXES = {aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default}
SIGMOIDS = {aten.sigmoid.default, aten.hardsigmoid.default, aten.log_sigmoid.default}
LOGARITHMS = {aten.log_softmax.int, aten._log_softmax.default, aten.log_sigmoid.default}
MOVES = {
    aten._to_copy.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.flatten.using_ints,
    aten.flip.default,
    aten.permute.default,
    aten.reshape.default,
    aten.roll.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.t.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.transpose.int,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""Moves and casts that neither repeat an entry nor make one up."""
AROUND_A_REDUCTION = MOVES | {aten.expand.default, aten.clamp_min.default, aten.clamp.default, aten.add.Tensor}
_NEVER_NEGATIVE = {
    aten.exp.default,
    aten.softplus.default,
    aten.relu.default,
    aten.sigmoid.default,
    aten.square.default,
}


class Probabilities(NamedTuple):
    """What an operation makes: the kind of probabilities, and whether it is their logarithm."""

    kind: Literal["probabilities", "sigmoid"]
    logarithm: bool


def probabilities(node: fx.Node) -> Probabilities | None:
    """Return what kind of probabilities, or of their logarithms, an operation makes or ends; None for others."""
    if node.target in SOFTMAXES | SIGMOIDS:
        return Probabilities("probabilities" if node.target in SOFTMAXES else "sigmoid", node.target in LOGARITHMS)
    return _written_out(node)


def _written_out(node: fx.Node) -> Probabilities | None:
    if node.target in (aten.exp.default, aten.log.default):
        wanted = node.target == aten.exp.default
        inner = before_moves(values(node)[0]) if wanted else _inside_logarithm(node)
        ending = probabilities(inner)
        return Probabilities(ending.kind, not wanted) if ending is not None and ending.logarithm == wanted else None
    if node.target == aten.sub.Tensor and _is_sum_of(node, aten.logsumexp.default):
        return Probabilities("probabilities", True)
    if node.target == aten.neg.default and values(node)[0].target == aten.softplus.default:
        return Probabilities("sigmoid", True)
    if node.target == aten.div.Tensor and _is_ratio(node):
        return Probabilities("probabilities", False)
    return Probabilities("sigmoid", False) if _is_sigmoid(node) else None


def back(node: fx.Node) -> Iterator[fx.Node]:
    """Yield a node and what it was before moves and casts, as far as these go."""
    while True:
        yield node
        if node.target not in MOVES:
            return
        node = values(node)[0]


def before_moves(node: fx.Node) -> fx.Node:
    """Return what a node was before all moves and casts."""
    *_, first = back(node)
    return first


def values(node: fx.Node) -> list[fx.Node]:
    """Return the arguments of an operation that carry relevance."""
    return [value for _, value in argument_nodes(node) if carries_relevance(value)]


def _inside_logarithm(node: fx.Node) -> fx.Node:
    """Return what a logarithm is taken of, but for moves and for what keeps it finite."""
    inner = values(node)[0]
    while inner.target in AROUND_A_REDUCTION and len(values(inner)) == 1:
        inner = values(inner)[0]
    return inner


def _is_ratio(node: fx.Node) -> bool:
    """Whether something that is never negative is divided by its own sum."""
    if before_moves(values(node)[0]).target not in _NEVER_NEGATIVE:
        return False
    return _is_sum_of(node, aten.sum.dim_IntList) or _is_sum_of(node, aten.linalg_vector_norm.default)


def _is_sum_of(node: fx.Node, reduction: Any) -> bool:
    """Whether the second operand is a reduction of the first one over the classes, the only axis beside the samples."""
    first, second = node.args[:2]
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return False
    while second.target in AROUND_A_REDUCTION and values(second):
        second = values(second)[0]
    if second.target != reduction or first.meta["val"].ndim != 2:
        return False
    order = second.args[1] if reduction == aten.linalg_vector_norm.default else None
    axes = second.args[1 if order is None else 2]
    over_classes = [axis % 2 for axis in (axes if isinstance(axes, list | tuple) else [axes])] == [1]  # type: ignore[operator]
    return over_classes and order in (None, 1) and _are_same(first, values(second)[0])


def _is_sigmoid(node: fx.Node) -> bool:
    """Whether a node is ``1 / (1 + exp(-x))``, ``exp(x) / (1 + exp(x))`` or ``(1 + tanh(x)) / 2``."""
    if node.target in (aten.mul.Tensor, aten.div.Tensor) and not isinstance(node.args[1], fx.Node):
        inner, factor = values(node)[0], node.args[1]
        if inner.target == aten.add.Tensor and factor == (0.5 if node.target == aten.mul.Tensor else 2):
            return bool(inner.args[1] == 1) and values(inner)[0].target == aten.tanh.default
        return bool(factor == 1) and _is_sigmoid(inner)
    if node.target == aten.reciprocal.default:
        return _exponential(values(node)[0]) is not None
    if node.target == aten.div.Tensor and isinstance(node.args[0], fx.Node) and isinstance(node.args[1], fx.Node):
        exponential = _exponential(node.args[1])
        return exponential is not None and _are_same(node.args[0], exponential)
    return False


def _exponential(node: fx.Node) -> fx.Node | None:
    """Return the exponential that one is added to; None where it is something else."""
    if node.target != aten.add.Tensor or node.args[1] != 1:
        return None
    inner = values(node)[0]
    return inner if inner.target == aten.exp.default else None


def _are_same(first: fx.Node, second: fx.Node) -> bool:
    """Whether two nodes are one, or one operation on the same."""
    return first is second or (
        first.op == "call_function"
        and (first.target, first.args, first.kwargs) == (second.target, second.args, second.kwargs)
    )
