"""Pooling: averages and sums follow the formula, maxima are won by one entry."""

from __future__ import annotations

from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations import deviations, linear_maps, winners
from rule_registry.registry import register

register(ABSLRP, *winners.EXTREMES, rule=winners.extreme, overwrites=True, picks=True)
for operations, winner in winners.WINNERS:
    register(ABSLRP, *operations, rule=winner, overwrites=True)


@register(ABSLRP, *linear_maps.AVERAGES, overwrites=True)
def average(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Averages, sums and interpolation, whose weights are never negative: ``x^+ W^T s``."""
    s = over(call, relevance, denominator(call, delta))
    x = call.input if call.site.nonnegative[0] else call.input.clamp(min=0)
    values = linear_maps.AVERAGES[call.site.op](call, s) * x
    return share(call, values, net=call.batch.dot_(s, call.result))


@register(ABSLRP, *deviations.SPREADS, overwrites=True)
def deviation(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Variance, standard deviation and vector norm: positive parts of ``x_i dz/dx_i``."""
    s = over(call, relevance, denominator(call, delta))
    pulled = linear_maps.total(call, s * deviations.factor(call))
    net = deviations.degree(call) * call.batch.dot_(s, call.result)
    return share(call, pulled * deviations.products(call).clamp(min=0), net=net)
