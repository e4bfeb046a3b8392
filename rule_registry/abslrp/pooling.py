"""Pooling: averages and sums follow the formula, maxima are won by one entry.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations import deviations, linear_maps, winners
from rule_registry.orientation import halves, orientation
from rule_registry.registry import register

register(ABSLRP, *winners.EXTREMES, rule=winners.extreme, overwrites=True, picks=True, contributes=True)
for operations, winner in winners.WINNERS:
    register(ABSLRP, *operations, rule=winner, overwrites=True, contributes=True)


@register(ABSLRP, *linear_maps.AVERAGES, overwrites=True, contributes=True)
def average(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Averages, sums and interpolation, whose weights are never negative: ``x^+ W^T s^+ + |x^-| W^T s^-``."""
    sign, pull = orientation(call, signed), linear_maps.AVERAGES[call.site.op]
    s = over(call, relevance, denominator(call, delta))
    if sign is not None:
        up, down = (pull(call, part) for part in halves(s, sign))
        values = (up * call.input.clamp(min=0)).sub_(down * call.input.clamp(max=0))
        return share(call, values, net=call.batch.dot_(s.mul_(sign), call.result))
    x = call.input if call.site.nonnegative[0] else call.input.clamp(min=0)
    values = pull(call, s) * x
    return share(call, values, net=call.batch.dot_(s, call.result))


@register(ABSLRP, *deviations.SPREADS, overwrites=True, contributes=True)
def deviation(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Variance, standard deviation and vector norm, never negative: positive parts of ``x_i dz/dx_i``."""
    s = over(call, relevance, denominator(call, delta))
    pulled = linear_maps.total(call, s * deviations.factor(call))
    sign, products = orientation(call, signed), deviations.products(call)
    if sign is not None:
        s, products = s * sign, products * linear_maps.total(call, sign.unsqueeze(0))[0]
    net = deviations.degree(call) * call.batch.dot_(s, call.result)
    return share(call, pulled * products.clamp(min=0), net=net)
