"""How a model ends: in class scores, in what a softmax made of them, or in something else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from relprop.graph.graph import Graph
from relprop.graph.written_out import (
    AROUND_A_REDUCTION,
    LOGARITHMS,
    SOFTMAXES,
    back,
    before_moves,
    probabilities,
    values,
)
from rule_registry import BatchAxis

aten = torch.ops.aten

_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default}
_MEANS = {aten.mean.dim, aten.cat.default, aten.stack.default}
UNIT = 1e-3
"""How far from one the sum of probabilities, or the norm of a held vector, may be, in half precision."""


Link = Literal["softmax", "sigmoid", "output", "exp"]
"""What turns the output into probabilities: one of two functions, nothing, or, of their logarithms, the exponential."""


@dataclass(frozen=True, eq=False)
class Ending:
    """How a model ends.

    Parameters
    ----------
    kind : {"scores", "softmax", "sigmoid", "cosine", "probabilities"}
        What the output is: scores that a softmax would turn into probabilities, as far as the graph tells; what one
        softmax over the classes, or its logarithm, made of such; or something of which no softmax makes probabilities.
    softmax : fx.Node, optional
        The softmax, of the second kind.
    moves : tuple of fx.Node
        The moves and casts between it and the output, in order.
    logarithm : bool
        Whether the output is the logarithm of what that softmax or a sigmoid makes.
    """

    kind: Literal["scores", "softmax", "sigmoid", "cosine", "probabilities"]
    softmax: fx.Node | None = None
    moves: tuple[fx.Node, ...] = ()
    logarithm: bool = False

    @property
    def behind_scores(self) -> tuple[fx.Node, ...]:
        """The softmax and what is behind it."""
        return () if self.softmax is None else (self.softmax, *self.moves)

    @property
    def link(self) -> Link:
        """What turns the output into probabilities, see `Link`."""
        if self.kind in ("softmax", "sigmoid", "probabilities"):
            return "exp" if self.logarithm else "output"
        return "softmax"


def find_ending(graph: Graph) -> Ending:
    """Find out by the graph how a model ends whose output is ``(B, classes)``."""
    *moves, node = back(graph.output)
    if node.target in SOFTMAXES and _is_over_classes(graph, node):
        return Ending("softmax", node, tuple(reversed(moves)), node.target in LOGARITHMS)
    made_of = list(_averaged(node))
    leaves = {_kind(graph, leaf) for leaf in made_of}
    logarithm = all(_is_logarithm(leaf) for leaf in made_of)
    for kind in ("sigmoid", "probabilities", "cosine"):
        if kind in leaves:
            return Ending(kind, logarithm=logarithm)
    return Ending("scores")


def find_link(graph: Graph) -> Link:
    """Return what turns an output ``(B, classes)`` into probabilities, as far as the graph tells; else the softmax."""
    return find_ending(graph).link


def are_probabilities(output: Tensor) -> bool:
    """Whether each sample of an output ``(B, classes)`` has numbers that are never negative and sum to one."""
    wide = output.double()
    return bool((wide >= 0).all() and ((wide.sum(1) - 1).abs() < UNIT).all())


def _is_over_classes(graph: Graph, softmax: fx.Node) -> bool:
    """Whether a softmax is over all classes of the output, and over nothing else: moves behind it left none out."""
    mark, shape = graph.batch.get(softmax), softmax.meta["val"].shape
    dim = softmax.args[1] if len(softmax.args) > 1 else softmax.kwargs["dim"]
    assert isinstance(dim, int)
    sizes = [size for axis, size in enumerate(shape) if not (isinstance(mark, BatchAxis) and axis == mark.axis)]
    if isinstance(mark, BatchAxis) and mark.merged:
        return False
    classes = graph.output.meta["val"].shape[1]
    return bool(shape[dim] == classes and math.prod(sizes) == classes)


def _averaged(node: fx.Node) -> Iterator[fx.Node]:
    """Yield what a mean, or a stack of several, is made of; anything else as it is."""
    node = before_moves(node)
    if node.target in _MEANS:
        for value in values(node):
            yield from _averaged(value)
    else:
        yield node


def _kind(graph: Graph, node: fx.Node) -> str:
    if (found := probabilities(node)) is not None:
        return found.kind
    return "cosine" if _is_cosine(graph, node) else "scores"


def _is_logarithm(node: fx.Node) -> bool:
    return (found := probabilities(node)) is not None and found.logarithm


def _is_cosine(graph: Graph, node: fx.Node) -> bool:
    """Whether a node is the cosine of two vectors, with no factor behind them."""
    if node.target == aten.cosine_similarity.default:
        return True
    factors = values(node) if node.target in _PRODUCTS else []
    return len(factors) == 2 and all(_is_unit(graph, factor) for factor in factors)


def _is_unit(graph: Graph, node: fx.Node) -> bool:
    """Whether a node holds vectors of norm one: divided by it in the graph, or kept so."""
    node = before_moves(node)
    if node.op == "get_attr":
        held = graph.tensors[str(node.target)]
        return held.ndim == 2 and any(bool(((held.norm(dim=k) - 1).abs() < UNIT).all()) for k in (0, 1))
    if node.target != aten.div.Tensor or not isinstance(node.args[1], fx.Node):
        return False
    norm = _norm_of(node.args[1])
    return norm is before_moves(values(node)[0])


def _norm_of(node: fx.Node) -> fx.Node | None:
    """Return whose norm a node is; None where it is none."""
    while node.target in AROUND_A_REDUCTION:
        node = values(node)[0]
    if node.target == aten.sqrt.default:  # of the sum of squares
        while node.target in (aten.sqrt.default, aten.sum.dim_IntList, aten.pow.Tensor_Scalar, aten.square.default):
            node = values(node)[0]
    elif node.target == aten.linalg_vector_norm.default:
        node = values(node)[0]
    else:
        return None
    *_, node = back(node)
    return node
