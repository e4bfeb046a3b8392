"""Pooling: averages share in proportion to what they sum, maxima are won by one entry.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
What is `Factored` has a value without that axis, ``(*output)`` or ``(*input)``, and a gradient with it.
"""

from __future__ import annotations

from torch import Tensor

from rule_registry.call import Call
from rule_registry.factored import Factored
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import divided, stabilised
from rule_registry.operations import deviations, linear_maps, winners
from rule_registry.registry import register

register(EPSILON, *winners.EXTREMES, rule=winners.extreme, picks=True)
for operations, winner in winners.WINNERS:
    register(EPSILON, *operations, rule=winner)


@register(EPSILON, *linear_maps.AVERAGES, factored=True)
def average(call: Call, relevance: Tensor | Factored, *, stabilizer: float) -> Factored:
    """Averages, sums and interpolation: shares in proportion to the weighted inputs."""
    s = divided(call, relevance, stabilizer)
    return Factored(call.input, linear_maps.AVERAGES[call.site.op](call, s))


@register(EPSILON, *deviations.SPREADS)
def deviation(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Variance, deviation and vector norm: in proportion to ``x_i dz/dx_i``, whose sum is a multiple of z."""
    s = relevance / stabilised(deviations.degree(call) * call.result, stabilizer)
    return linear_maps.total(call, s * deviations.factor(call)) * deviations.products(call)
