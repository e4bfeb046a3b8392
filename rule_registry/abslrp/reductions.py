"""Products and smooth maxima along an axis.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations import reductions
from rule_registry.orientation import orientation
from rule_registry.registry import register

aten = torch.ops.aten


@register(ABSLRP, aten.logsumexp.default)
def smooth_maximum(call: Call, relevance: Tensor) -> Shares:
    """Smooth maximum: in proportion to ``exp(x_i)``, as sums of exponentials share; the logarithm passes."""
    values = reductions.in_proportion_to_exponentials(call, relevance)
    return share(call, values, total=call.batch.sum(relevance))


@register(ABSLRP, *reductions.PRODUCTS, overwrites=True)
def product(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Product of the entries of an axis: each of them contributes the output, as each factor of a product does."""
    sign = orientation(call, signed)
    counted = call.result if sign is None else call.result * sign
    s = over(call, relevance, denominator(call, delta))
    total = call.site.input_batch[0].sum(reductions.to_factors(call, s * call.result.abs()))
    return share(call, reductions.to_factors(call, s * counted.clamp(min=0)), total=total)
