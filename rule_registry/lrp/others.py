"""The rule set ``epsilon`` for operations without a weight of their own.

Averages, sums, norms and products follow the epsilon rule with their contributions ``x_i dz_j/dx_i``; a function of
one entry alone hands all relevance to that entry. The field has no agreed rule for some of them; what is stated here
holds in every rule set built on this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rule_registry.abslrp import pooling
from rule_registry.abslrp.activations import ELEMENTWISE
from rule_registry.abslrp.elementwise import PAIRS
from rule_registry.call import Call, only_scales, sum_to, unmasked
from rule_registry.lrp.formula import stabilised
from rule_registry.operations import deviations, linear_maps, norms, products
from rule_registry.registry import register
from rule_registry.rule import Rule, passes

aten = torch.ops.aten

register(
    "epsilon",
    *ELEMENTWISE,
    aten.neg.default,
    aten.log_softmax.int,
    aten.detach.default,
    aten.detach_.default,
    rule=passes,
)

for operations, winner in (
    ((aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default), pooling.max_pool),
    (pooling.INDEXED, pooling.indexed_max_pool),
    ((aten.amax.default, aten.amin.default), pooling.amax),
    ((aten.maximum.default, aten.minimum.default), pooling.extreme),
    (pooling.CHOICES, pooling.best),
):
    register("epsilon", *operations, rule=winner)


@register("epsilon", *linear_maps.AVERAGES, *linear_maps.BICUBIC)
def average(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Averages, sums and interpolation: shares in proportion to the weighted inputs."""
    s = relevance / stabilised(call.result, stabilizer)
    return linear_maps.AVERAGES.get(call.site.op, linear_maps.interpolation)(call, s) * call.input


@register(
    "epsilon",
    aten.layer_norm.default,
    aten.rms_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
)
def norm(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Norm with its deviation held, and its mean a sum as any other.

    The LN-rule of Ali et al., XAI for Transformers: Better Explanations through Conservative Propagation, ICML 2022.
    """
    s = relevance / stabilised(call.result, stabilizer)
    return norms.centred(call, norms.scaled(call, s)) * call.input


def batch_norm(call: Call, relevance: Sequence[Tensor], *, stabilizer: float) -> Tensor:
    """Batch norm in evaluation mode that no layer precedes: an affine layer of its own."""
    return norm(call, relevance[0], stabilizer=stabilizer)


register(
    "epsilon",
    aten._native_batch_norm_legit_no_training.default,
    rule=Rule("batch_norm", batch_norm, "merges"),
)


@register("epsilon", aten.softmax.int, aten._softmax.default)
def softmax(call: Call, relevance: Tensor) -> Tensor:
    """First-order expansion: ``x_i (R_i - s_i sum_j R_j)``, which is the epsilon rule with none.

    Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers, ICML 2024, Eq. 13.
    """
    x = call.input
    total = relevance.sum(call["dim"] % x.ndim + 1, keepdim=True)
    return torch.where(x.isinf(), 0.0, x) * (relevance - call.result * total)


@register("epsilon", aten.add.Tensor, aten.add.Scalar)
def add(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Sum: each term in proportion to its value; what falls on a constant term is absorbed."""
    return _terms(call, relevance, {"self": 1, "other": call["alpha"]}, stabilizer)


@register("epsilon", aten.sub.Tensor, aten.sub.Scalar)
def sub(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Difference: a sum with the second term negative."""
    return _terms(call, relevance, {"self": 1, "other": -call["alpha"]}, stabilizer)


@register("epsilon", aten.rsub.Scalar, aten.rsub.Tensor)
def rsub(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Difference the other way round."""
    return _terms(call, relevance, {"self": -call["alpha"], "other": 1}, stabilizer)


def _terms(call: Call, relevance: Tensor, signs: dict[str, float], stabilizer: float) -> list[Tensor]:
    s = relevance / stabilised(call.result, stabilizer)
    return [
        sum_to(s * unmasked(call, call.value(slot)) * signs[slot.name], call.value(slot).shape)
        for slot in call.site.active
    ]


@register("epsilon", aten.mul.Tensor, aten.mul.Scalar)
def mul(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Product: with a constant a layer of one weight; of two activations half for each.

    The halves are those of Achtibat et al. 2024, Eq. 15, for element-wise products.
    """
    if only_scales(call):
        return [sum_to(relevance, call.input.shape)]
    z = unmasked(call, call.result)
    s = relevance / stabilised(len(call.site.active) * call.result, stabilizer)
    return [sum_to(s * z, call.value(slot).shape) for slot in call.site.active]


@register("epsilon", aten.glu.default)
def glu(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Gated linear unit: half for each of the factors, as for any product of two."""
    half = relevance / stabilised(2 * call.result, stabilizer) * call.result
    return torch.cat([half, half], call["dim"] % call.input.ndim + 1)


@register("epsilon", *deviations.SPREADS)
def deviation(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Variance, deviation and vector norm: in proportion to ``x_i dz/dx_i``, whose sum is a multiple of z."""
    s = relevance / stabilised(deviations.degree(call) * call.result, stabilizer)
    return linear_maps.total(call, s * deviations.factor(call)) * deviations.products(call)


@register("epsilon", aten.div.Tensor, aten.div.Scalar)
def div(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Quotient: all to the numerator, the denominator held as norms hold theirs; to it where that is constant."""
    if only_scales(call) or not call.is_active("self"):
        return [sum_to(relevance, call.input.shape)]
    s = relevance / stabilised(call.result, stabilizer)
    numerator = sum_to(s * unmasked(call, call.result), call["self"].shape)
    return [numerator] + [relevance.new_zeros(len(relevance), *x.shape) for x in call.inputs[1:]]


@register("epsilon", *PAIRS)
def pair(call: Call, relevance: Tensor) -> list[Tensor]:
    """Powers and their kin: all to the first, the second held; to it where the first is constant."""
    first, *others = call.inputs
    held = [relevance.new_zeros(len(relevance), *x.shape) for x in others]
    return [sum_to(relevance, first.shape), *held]


@register("epsilon", *products.FACTORS)
def matmul(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Matrix product: with a constant a layer; of two activations half of ``a_ik b_kj R_ij / z_ij`` for each.

    The halves are those of Achtibat et al. 2024, Eq. 15.
    """
    s = relevance / stabilised(len(call.site.active) * call.result, stabilizer)
    return products.factors(call, s, lambda x, nonnegative, other, pull: pull(other) * x)
