"""Products and smooth maxima along an axis.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.operations import reductions
from rule_registry.registry import register

aten = torch.ops.aten


@register(EPSILON, aten.logsumexp.default)
def proportional_smooth_maximum(call: Call, relevance: Tensor) -> Tensor:
    """Smooth maximum: in proportion to ``exp(x_i)``, as sums of exponentials share; the logarithm passes."""
    return reductions.in_proportion_to_exponentials(call, relevance)


@register(EPSILON, *reductions.PRODUCTS)
def proportional_product(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Product of the entries of an axis: the same share for each."""
    running = call.site.op == aten.cumprod.default
    count = torch.ones_like(call.result).cumsum(call["dim"]) if running else call.input.numel() / call.result.numel()
    return reductions.to_factors(call, relevance / stabilised(count * call.result, stabilizer) * call.result)
