"""Norms and activations that a model writes out, recognized as the one operation that they are.

Language models often spell these in parts: ``x * rsqrt(mean(x ** 2) + eps)``, or GELU as products, sums and a tanh. A
rule for the parts would share relevance out among the factors of a product that is none: the same norm, spelled as one
operation, has one rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from relprop.graph.graph import Graph, drop_unused

aten = torch.ops.aten

RECOGNIZED = frozenset({aten.rms_norm.default, aten.layer_norm.default})
"""What torch composes of others: rule sets without a rule for it get the parts."""
_CLOSE = 1e-4
_SUMS, _PRODUCTS = (aten.add.Tensor, aten.add.Scalar), (aten.mul.Tensor, aten.mul.Scalar)
_QUOTIENTS = (aten.div.Tensor, aten.div.Scalar)
_POWERS = (aten.pow.Tensor_Scalar,)


def recognize(graph: Graph, keep: Collection[OpOverload]) -> tuple[Graph, frozenset[OpOverload]]:
    """Rewrite what is written out as the operation that it is.

    Parameters
    ----------
    graph : Graph
        As built.
    keep : collection of OpOverload
        The composite operations that may stand in the graph.

    Returns
    -------
    Graph, frozenset of OpOverload
        The graph, and the composite operations that were recognized, kept or not.
    """
    met: set[OpOverload] = set()
    changed = False
    for node in list(graph.calls()):
        if not _is(node, (*_PRODUCTS, *_QUOTIENTS)):
            continue
        found = next(filter(None, (find(node) for find in (_root_mean_square, _tanh_gelu, _erf_gelu, _silu))), None)
        if found is None:
            continue
        met |= RECOGNIZED & {found[0]}
        if found[0] not in RECOGNIZED or found[0] in keep:
            node.target, node.args, node.kwargs = found
            changed = True
    if changed:
        drop_unused(graph.graph)
        kept = set(graph.graph.nodes)
        graph = replace(graph, origins={node: origin for node, origin in graph.origins.items() if node in kept})
    return graph, frozenset(met)


_Found = tuple[OpOverload, tuple[Any, ...], dict[str, Any]]


def _root_mean_square(node: fx.Node) -> _Found | None:
    """``x * rsqrt(mean(x ** 2, -1) + eps)``, or over its root; a layer norm where ``x`` is centred."""
    for x, factor in _factors(node):
        if factor.target != (aten.rsqrt.default if node.target in _PRODUCTS else aten.sqrt.default):
            continue
        eps, mean = _constant(factor.args[0], _SUMS)
        if not _is(mean, (aten.mean.dim,)):
            continue
        squared, dims, *keepdim = mean.args
        value = x.meta["val"]
        if list(dims) not in ([-1], [value.ndim - 1]) or keepdim[:1] != [True] or not _is_square(squared, x):
            continue
        size = value.shape[-1]
        if isinstance(size, int) and value.is_floating_point():
            if (whole := _centred(x)) is not None:
                return aten.layer_norm.default, (whole, [size], None, None, eps or 0.0), {}
            return aten.rms_norm.default, (x, [size], None, eps), {}
    return None


def _centred(node: fx.Node) -> fx.Node | None:
    """Return ``x`` of ``x - mean(x, -1)``."""
    if _is(node, (aten.sub.Tensor,)) and not node.kwargs:
        x: Any
        mean: Any
        x, mean = node.args
        if isinstance(x, fx.Node) and _is(mean, (aten.mean.dim,)) and mean.args[0] is x:
            last = list(mean.args[1]) in ([-1], [x.meta["val"].ndim - 1])
            return x if last and mean.args[2:3] == (True,) else None
    return None


def _tanh_gelu(node: fx.Node) -> _Found | None:
    """``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x ** 3)))``."""
    for scaled, gate in _factors(node):
        half, x = _constant(scaled, _PRODUCTS)
        one, tanh = _constant(gate, _SUMS)
        if not (_near(half, 0.5) and _near(one, 1.0) and _is(tanh, (aten.tanh.default,))):
            continue
        factor, total = _constant(tanh.args[0], _PRODUCTS)
        if not (_near(factor, math.sqrt(2 / math.pi)) and _is(total, _SUMS)):
            continue
        for first, second in _terms(total):
            weight, cube = _constant(second, _PRODUCTS)
            if first is x and _near(weight, 0.044715) and _is(cube, _POWERS) and cube.args == (x, 3):
                return aten.gelu.default, (x,), {"approximate": "tanh"}
    return None


def _erf_gelu(node: fx.Node) -> _Found | None:
    """``0.5 x (1 + erf(x / sqrt(2)))``."""
    for scaled, gate in _factors(node):
        half, x = _constant(scaled, _PRODUCTS)
        one, erf = _constant(gate, _SUMS)
        if _near(half, 0.5) and _near(one, 1.0) and _is(erf, (aten.erf.default,)):
            inside: Any = erf.args[0]
            over, dividend = _constant(inside, _QUOTIENTS)
            times, factor = _constant(inside, _PRODUCTS)
            if (dividend is x and _near(over, math.sqrt(2))) or (factor is x and _near(times, math.sqrt(0.5))):
                return aten.gelu.default, (x,), {}
    return None


def _silu(node: fx.Node) -> _Found | None:
    """``x * sigmoid(x)``."""
    for x, gate in _factors(node):
        if node.target in _PRODUCTS and gate.target == aten.sigmoid.default and gate.args[0] is x:
            return aten.silu.default, (x,), {}
    return None


def _factors(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield the two tensors of a product in both orders, those of a quotient in theirs."""
    first, second = node.args[:2]
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        yield first, second
        if node.target in _PRODUCTS:
            yield second, first


def _terms(node: fx.Node) -> Iterator[tuple[Any, Any]]:
    if not node.kwargs:  # else one of them has a factor
        yield node.args[0], node.args[1]
        yield node.args[1], node.args[0]


def _constant(node: Any, operations: Collection[Callable[..., Any]]) -> tuple[float | None, Any]:
    """Return number and tensor of a sum or a product of both; None and the value itself where it is no such thing."""
    if _is(node, operations) and not node.kwargs:
        first, second = node.args[:2]
        if isinstance(second, int | float) and isinstance(first, fx.Node):
            return float(second), first
        if isinstance(first, int | float) and isinstance(second, fx.Node) and operations != _QUOTIENTS:
            return float(first), second
    return None, node


def _is(node: Any, operations: Collection[Callable[..., Any]]) -> bool:
    return isinstance(node, fx.Node) and node.target in operations and isinstance(node.meta.get("val"), Tensor)


def _is_square(node: Any, x: fx.Node) -> bool:
    if _is(node, _POWERS):
        return bool(node.args[0] is x and node.args[1] == 2)
    if _is(node, (aten.square.default,)):
        return bool(node.args[0] is x)
    return _is(node, _PRODUCTS) and all(factor is x for factor in node.args[:2])


def _near(found: float | None, expected: float) -> bool:
    """Whether a number is meant: authors write as many digits as they like."""
    return found is not None and abs(found - expected) <= _CLOSE * expected
