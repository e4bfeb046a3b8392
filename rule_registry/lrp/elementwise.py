"""Sums, products, quotients and powers of entries.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rule_registry.call import Call, only_scales, sum_to, unmasked
from rule_registry.factored import Factored, whole
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import divided, stabilised
from rule_registry.operations.elementwise import DIFFERENCES, PAIRS, PRODUCTS, QUOTIENTS, REVERSED_DIFFERENCES, SUMS
from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

register(EPSILON, aten.neg.default, rule=passes)


@register(EPSILON, *SUMS, factored=True)
def add(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> list[Factored]:
    """Sum: each term in proportion to its value; what falls on a constant term is absorbed."""
    return _terms(call, relevance, {"self": 1, "other": call["alpha"]}, stabilizer)


@register(EPSILON, *DIFFERENCES, factored=True)
def sub(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> list[Factored]:
    """Difference: a sum with the second term negative."""
    return _terms(call, relevance, {"self": 1, "other": -call["alpha"]}, stabilizer)


@register(EPSILON, *REVERSED_DIFFERENCES, factored=True)
def rsub(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> list[Factored]:
    """Difference the other way round."""
    return _terms(call, relevance, {"self": -call["alpha"], "other": 1}, stabilizer)


def _terms(call: Call, relevance: Tensor | Factored, signs: dict[str, float], stabilizer: float) -> list[Factored]:
    """Share of ``p self + q other`` in proportion to the terms, each broadcast to the output."""
    s = divided(call, relevance, stabilizer)
    found = []
    for slot in call.site.active:
        sign, value = signs[slot.name], call.value(slot)
        found.append(Factored(unmasked(call, value), sum_to(s if sign == 1 else s * sign, value.shape)))
    return found


@register(EPSILON, *PRODUCTS, factored=True)
def mul(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> list[Tensor | Factored]:
    """Product: with a constant a layer of one weight; of two activations half for each.

    The halves are those of Achtibat et al. 2024, Eq. 15, for element-wise products.
    """
    if only_scales(call):
        return _scaled(call, relevance, lambda t, factor: t * factor)
    s = divided(call, relevance, stabilizer, len(call.site.active))
    found = []
    for slot in call.site.active:
        value, other = call.value(slot), call["other" if slot.name == "self" else "self"]
        found.append(Factored(unmasked(call, value), sum_to(s * unmasked(call, other), value.shape)))
    return [*found]


def _scaled(
    call: Call, relevance: Tensor | Factored, scale: Callable[[Tensor, Any], Tensor]
) -> list[Tensor | Factored]:
    """Hand all to the activation, as the constant beside it changes no proportion."""
    shape = call.input.shape
    if isinstance(relevance, Factored) and relevance.value is call.result:
        constant = call["other"] if call.is_active("self") else call["self"]
        return [Factored(call.input, sum_to(scale(relevance.gradient, constant), shape))]
    return [sum_to(whole(relevance), shape)]


@register(EPSILON, aten.glu.default)
def glu(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Gated linear unit: half for each of the factors, as for any product of two."""
    half = relevance / stabilised(2 * call.result, stabilizer) * call.result
    return torch.cat([half, half], call["dim"] % call.input.ndim + 1)


@register(EPSILON, *QUOTIENTS, factored=True)
def div(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> list[Tensor | Factored]:
    """Quotient: all to the numerator, the denominator held as norms hold theirs; to it where that is constant."""
    if only_scales(call) and call.is_active("self"):
        return _scaled(call, relevance, lambda t, divisor: t / divisor)
    arrived: Tensor = whole(relevance)
    if not call.is_active("self"):
        return [sum_to(arrived, call.input.shape)]
    s = arrived / stabilised(call.result, stabilizer)
    numerator = sum_to(s * unmasked(call, call.result), call["self"].shape)
    return [numerator, *(arrived.new_zeros(len(arrived), *x.shape) for x in call.inputs[1:])]


@register(EPSILON, *PAIRS, picks=True)
def pair(call: Call, relevance: Tensor) -> list[Tensor]:
    """Powers and their kin: all to the first, the second held; to it where the first is constant."""
    first, *others = call.inputs
    held = [relevance.new_zeros(len(relevance), *x.shape) for x in others]
    return [sum_to(relevance, first.shape), *held]
