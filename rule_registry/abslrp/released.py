"""The rule set ``abslrp-released``: the authors' released code, so that anyone can compare with published maps.

Every module of that code propagates ``a * d<f(a; w) + f(|a|; |w|), R / (|f(a; w)| + 1e-9)> / da`` and divides what it
hands to each input by its own L1 norm. For an affine operation the products are those of ``abslrp`` with
``delta = 0`` (times two, which the norm takes out); the others are stated here. The released maps mix in one
non-local defect (in a block with an identity shortcut, the shortcut's relevance picks up the path through the
branch); it is a rule of no operation and is not reproduced.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rule_registry.abslrp import bilinear, elementwise, linear, norms, pooling
from rule_registry.batch_axis import BatchAxis
from rule_registry.call import EPSILON, Call, Shares
from rule_registry.moves.structural import select as put_back
from rule_registry.operations import winners
from rule_registry.purposes import PUBLISHED
from rule_registry.registry import define, register
from rule_registry.select import select

aten = torch.ops.aten

define(
    "abslrp-released",
    "the authors' released code, quirk by quirk, for comparison with published maps",
    base="structural",
    contrast="rest",
    purpose=PUBLISHED,
    mass="ignored",
    normalize="largest",
)


def unit(mark: BatchAxis, relevance: Tensor) -> Tensor:
    """Divide a relevance, ``(S, *activation)``, by its L1 norm per seed and sample."""
    norm = mark.sum(relevance.abs())
    return relevance / mark.spread(torch.where(norm == 0, 1.0, norm), relevance.ndim - 1)


def unit_shares(call: Call, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Divide the relevance ``(S, *input)`` of each input by its own L1 norm: factors and branches weigh alike."""
    return tuple(unit(mark, value) for mark, value in zip(call.site.input_batch, values, strict=True))


def without_negative(call: Call, relevance: Tensor) -> Tensor:
    """Delete the relevance of negative outputs, as a dropout or an identity does that is a module of its own.

    What is left is ``(S, *output)`` as before.
    """
    positive = call.result.clamp(min=0)
    return unit(call.batch, relevance * (positive / (positive + EPSILON)))


def _affine(function: Callable[..., Shares]) -> Callable[[Call, Any], tuple[Tensor, ...]]:
    """Make a rule of the released code of one of ``abslrp``: the same products, each input's over its L1 norm."""

    def rule(call: Call, relevance: Any) -> tuple[Tensor, ...]:
        returned = function(replace(call, absolute=EPSILON), relevance, delta=0.0, signed=False)
        # Only a product with a scalar returns relevance itself; it is a module like any other here.
        values = returned.values if isinstance(returned, Shares) else (returned,)
        return unit_shares(call, values)

    rule.__name__ = f"unit_{function.__name__}"
    return rule


def _then_dropped(function: Callable[..., Shares]) -> Callable[[Call, Any], tuple[Tensor, ...]]:
    """Make the rule of an affine operation that a dropout follows as a module of its own."""
    inner = _affine(function)

    def rule(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
        return inner(call, without_negative(call, relevance))

    rule.__name__ = f"dropped_{inner.__name__}"
    return rule


for operations, function in (
    ((aten.linear.default,), linear.linear),
    ((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), linear.convolution),
    ((aten._native_batch_norm_legit_no_training.default,), norms.batch_norm),
    ((aten.add.Tensor,), elementwise.add),
    ((aten.mul.Tensor,), elementwise.mul),
    ((aten.matmul.default, aten.bmm.default), bilinear.matmul),
    ((aten.avg_pool2d.default,), pooling.average),
    ((aten.adaptive_avg_pool2d.default,), pooling.average),
    ((aten.mean.dim,), pooling.average),
):
    register("abslrp-released", *operations, rule=_affine(function))  # type: ignore[arg-type]


def _elementwise(
    call: Call, relevance: Tensor, slope: Callable[[Tensor], Tensor], slope_of_magnitude: Callable[[Tensor], Tensor]
) -> Tensor:
    """Hand on relevance of a function of single entries, by its slope at ``a`` and its twin's at ``|a|``.

    Both slopes are functions of ``(*input)``, and what they return broadcasts to it.
    """
    a = call.input
    both = a * slope(a) + a.abs() * slope_of_magnitude(a.abs())
    return unit(call.site.input_batch[0], both * relevance / (call.result.abs() + EPSILON))


@register("abslrp-released", aten.relu.default)
def relu(call: Call, relevance: Tensor) -> Tensor:
    """Rectifier."""
    return _elementwise(call, relevance, lambda a: (a > 0).to(a.dtype), lambda a: (a > 0).to(a.dtype))


@register("abslrp-released", aten.gelu.default)
def gelu(call: Call, relevance: Tensor) -> Tensor:
    """Exact GELU: large factors at negative inputs."""

    def slope(a: Tensor) -> Tensor:
        return 0.5 * (1 + torch.erf(a / math.sqrt(2))) + a * torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi)

    return _elementwise(call, relevance, slope, slope)


@register("abslrp-released", aten.softmax.int)
def softmax(call: Call, relevance: Tensor) -> Tensor:
    """Softmax as ``exp(a - max) / sum`` with both held; the second term takes its own from ``|a|``."""

    def value(a: Tensor) -> Tensor:
        return a.softmax(call["dim"])

    return _elementwise(call, relevance, value, value)


@register("abslrp-released", aten.layer_norm.default)
def layer_norm(call: Call, relevance: Tensor) -> Tensor:
    """Layer norm; the second term has its own statistics, computed from ``|a|``."""
    x, shape = call.input, call["normalized_shape"]
    dims = list(range(x.ndim - len(shape), x.ndim))

    def slope(weight: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda a: weight * torch.rsqrt(a.var(dims, unbiased=False, keepdim=True) + call["eps"])

    weight = call["weight"] if call["weight"] is not None else x.new_ones(shape)
    return _elementwise(call, relevance, slope(weight), slope(weight.abs()))


@register("abslrp-released", aten.max_pool2d.default)
def max_pool(call: Call, relevance: Tensor) -> Tensor:
    """Maximum, over its magnitude."""
    s = relevance / (call.result.abs() + EPSILON)
    return unit(call.site.input_batch[0], call.input * winners.max_pool(call, s))


@register("abslrp-released", select(op=aten.max_pool2d.default, path="features.*"))
def undivided_max_pool(call: Call, relevance: Tensor) -> Tensor:
    """VGG's maximum, which is not divided by its output."""
    return unit(call.site.input_batch[0], call.input * winners.max_pool(call, relevance))


@register("abslrp-released", aten.select.int)
def class_token(call: Call, relevance: Tensor) -> Tensor:
    """Select the class token, a module of its own: negative features lose their relevance."""
    return put_back(call, without_negative(call, relevance))


for path in ("*attn.proj", "*mlp.fc2", "head.fc"):
    register("abslrp-released", select(op=aten.linear.default, path=path), rule=_then_dropped(linear.linear))


@register("abslrp-released", select(op=aten.gelu.default, path="*mlp.act"))
def dropped_gelu(call: Call, relevance: Tensor) -> Tensor:
    """GELU before a dropout."""
    return gelu(call, without_negative(call, relevance))


@register("abslrp-released", select(op=aten.softmax.int, path="*attn"))
def dropped_softmax(call: Call, relevance: Tensor) -> Tensor:
    """Softmax before a dropout, which deletes nothing here but the share of near-zero attention."""
    return softmax(call, without_negative(call, relevance))


@register("abslrp-released", aten.hardtanh.default)
def hardtanh(call: Call, relevance: Tensor) -> Tensor:
    """Clipped rectifier (ReLU6)."""

    def slope(a: Tensor) -> Tensor:
        inside: Tensor = (a > call["min_val"]) & (a < call["max_val"])
        return inside.to(a.dtype)

    return _elementwise(call, relevance, slope, slope)
