"""Sums, products, quotients and powers of entries."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, only_scales, sum_to, unmasked
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.operations.elementwise import DIFFERENCES, PAIRS, PRODUCTS, QUOTIENTS, REVERSED_DIFFERENCES, SUMS
from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

register(EPSILON, aten.neg.default, rule=passes)


@register(EPSILON, *SUMS)
def add(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Sum: each term in proportion to its value; what falls on a constant term is absorbed."""
    return _terms(call, relevance, {"self": 1, "other": call["alpha"]}, stabilizer)


@register(EPSILON, *DIFFERENCES)
def sub(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Difference: a sum with the second term negative."""
    return _terms(call, relevance, {"self": 1, "other": -call["alpha"]}, stabilizer)


@register(EPSILON, *REVERSED_DIFFERENCES)
def rsub(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Difference the other way round."""
    return _terms(call, relevance, {"self": -call["alpha"], "other": 1}, stabilizer)


def _terms(call: Call, relevance: Tensor, signs: dict[str, float], stabilizer: float) -> list[Tensor]:
    s = relevance / stabilised(call.result, stabilizer)
    return [
        sum_to(s * unmasked(call, call.value(slot)) * signs[slot.name], call.value(slot).shape)
        for slot in call.site.active
    ]


@register(EPSILON, *PRODUCTS)
def mul(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Product: with a constant a layer of one weight; of two activations half for each.

    The halves are those of Achtibat et al. 2024, Eq. 15, for element-wise products.
    """
    if only_scales(call):
        return [sum_to(relevance, call.input.shape)]
    z = unmasked(call, call.result)
    s = relevance / stabilised(len(call.site.active) * call.result, stabilizer)
    return [sum_to(s * z, call.value(slot).shape) for slot in call.site.active]


@register(EPSILON, aten.glu.default)
def glu(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Gated linear unit: half for each of the factors, as for any product of two."""
    half = relevance / stabilised(2 * call.result, stabilizer) * call.result
    return torch.cat([half, half], call["dim"] % call.input.ndim + 1)


@register(EPSILON, *QUOTIENTS)
def div(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Quotient: all to the numerator, the denominator held as norms hold theirs; to it where that is constant."""
    if only_scales(call) or not call.is_active("self"):
        return [sum_to(relevance, call.input.shape)]
    s = relevance / stabilised(call.result, stabilizer)
    numerator = sum_to(s * unmasked(call, call.result), call["self"].shape)
    return [numerator] + [relevance.new_zeros(len(relevance), *x.shape) for x in call.inputs[1:]]


@register(EPSILON, *PAIRS, picks=True)
def pair(call: Call, relevance: Tensor) -> list[Tensor]:
    """Powers and their kin: all to the first, the second held; to it where the first is constant."""
    first, *others = call.inputs
    held = [relevance.new_zeros(len(relevance), *x.shape) for x in others]
    return [sum_to(relevance, first.shape), *held]
