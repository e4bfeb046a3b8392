"""Sums, products, quotients and powers of entries.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Relevances, Shares, Slot, only_scales, share, sum_to, times, unmasked
from rule_registry.operations.elementwise import DIFFERENCES, PAIRS, PRODUCTS, QUOTIENTS, REVERSED_DIFFERENCES, SUMS
from rule_registry.orientation import orientation, oriented_denominator
from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

register(ABSLRP, aten.neg.default, rule=passes)


@register(ABSLRP, *SUMS, overwrites=True, contributes=True)
def add(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """Sum: each term's part of the sum's own sign; a constant term receives nothing."""
    return _terms(call, relevance, {"self": 1, "other": call["alpha"]}, delta, signed)


@register(ABSLRP, *DIFFERENCES, overwrites=True, contributes=True)
def sub(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """Difference: of the first term the part of the result's sign, of the second the other one."""
    return _terms(call, relevance, {"self": 1, "other": -call["alpha"]}, delta, signed)


@register(ABSLRP, *REVERSED_DIFFERENCES, overwrites=True, contributes=True)
def rsub(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """Difference the other way round."""
    return _terms(call, relevance, {"self": -call["alpha"], "other": 1}, delta, signed)


def _terms(call: Call, relevance: Tensor, signs: dict[str, Any], delta: float, signed: bool) -> Relevances:
    """Share of ``p self + q other``, in which each term contributes itself times its factor, like the output."""
    if call.site.evidence and len(call.site.active) == 1:
        return sum_to(relevance, call.input.shape)  # at a class score a constant is a bias, of whatever sign the score
    below = oriented_denominator(call, delta, signed)
    terms = {slot: _times(unmasked(call, call.value(slot)), signs[slot.name]) for slot in call.site.active}
    never_negative = {
        slot
        for slot in terms
        if signs[slot.name] == 1 and call.is_nonnegative(slot.name) and orientation(call, signed) is None
    }
    return _shared(call, relevance, {slot: term / below for slot, term in terms.items()}, never_negative)


@register(ABSLRP, *PRODUCTS, overwrites=True, contributes=True)
def mul(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """Product: of an activation with a scalar inert, with a constant affine, of two activations bilinear."""
    return _quotients(call, relevance, {"self": 1, "other": 1}, delta, signed)


@register(ABSLRP, *QUOTIENTS, overwrites=True, opposed=True, contributes=True)
def div(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """Quotient: the numerator's contribution is ``z``, the denominator's ``-z``; a scalar changes nothing."""
    return _quotients(call, relevance, {"self": 1, "other": -1}, delta, signed)


@register(ABSLRP, aten.glu.default, overwrites=True, contributes=True)
def glu(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Gated linear unit: the product of one half with the sigmoid of the other, through which relevance passes."""
    half, net = positive_part(call, relevance, call.result / oriented_denominator(call, delta, signed))
    return share(call, torch.cat([half, half], call["dim"] % call.input.ndim + 1), net=2 * net)


@register(ABSLRP, *PAIRS, overwrites=True, picks=True)
def pair(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """Powers and their kin: pass where one of two is constant; else ``(x dz/dx sgn z)^+`` of each."""
    if len(call.site.active) == 1:
        return sum_to(relevance, call.input.shape)
    below, (first, second) = oriented_denominator(call, delta, signed), call.site.active
    found = zip((first, second), _contributions(call, call.value(first), call.value(second)), strict=True)
    return _shared(call, relevance, {slot: part / below for slot, part in found})


def _contributions(call: Call, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x dz/dx`` of both inputs, shaped like the output."""
    z = call.result
    if call.site.op == aten.pow.Tensor_Tensor:
        return b * z, torch.xlogy(b, a) * z
    if call.site.op == aten.atan2.default:
        turned = a * b / (a.square() + b.square()).clamp(min=torch.finfo(z.dtype).tiny)
        return turned, -turned
    if call.site.op == aten.copysign.Tensor:
        return z, torch.zeros_like(z)
    return a.expand_as(z), z - a


def _quotients(call: Call, relevance: Tensor, powers: dict[str, int], delta: float, signed: bool) -> Relevances:
    """Share of ``self ** p * other ** q``, in which a factor contributes the output times its power."""
    if only_scales(call):
        return sum_to(relevance, call.input.shape)
    ratio = unmasked(call, call.result) / oriented_denominator(call, delta, signed)
    return _shared(call, relevance, {slot: _times(ratio, powers[slot.name]) for slot in call.site.active})


def _shared(
    call: Call, relevance: Tensor, ratios: Mapping[Slot, Tensor], never_negative: Collection[Slot] = ()
) -> Shares:
    """Share by ``ratios``, ``(*output)`` each: what each activation contributes to the output, over the denominator."""
    *others, last = {id(ratio): slot for slot, ratio in ratios.items()}.values()  # a product's factors share one
    parts = {}
    for slot in (*others, last):
        reading = call if slot == last else replace(call, spent=False)
        parts[id(ratios[slot])] = positive_part(reading, relevance, ratios[slot], slot in never_negative)
    values = [sum_to(parts[id(ratio)][0], call.value(slot).shape) for slot, ratio in ratios.items()]
    return share(call, *values, net=torch.stack([parts[id(ratio)][1] for ratio in ratios.values()]).sum(0))


def positive_part(call: Call, relevance: Tensor, ratio: Tensor, never_negative: bool = False) -> tuple[Tensor, Tensor]:
    """Return the contributions that count ``R c^+ / D``, ``(S, *output)``, and the net mass of all, ``(S, B)``.

    The ``ratio`` is ``c / D``, ``(*output)``, positive where a contribution counts.

    One tensor of the size of all seeds is made, and overwritten: reading and writing them is most of the time.
    """
    both = times(call, relevance, ratio)
    net = call.batch.sum(both)
    return both if never_negative else both.mul_(ratio.gt_(0)), net


def _times(tensor: Tensor, factor: Any) -> Tensor:
    """Multiply a tensor of any shape by a factor; it is returned itself where that is one."""
    return tensor if factor == 1 else tensor * factor
