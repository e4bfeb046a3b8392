"""Products and smooth maxima along an axis: each is what it would be if a model spelled it in single operations.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.operations import linear_maps

aten = torch.ops.aten

PRODUCTS = (aten.prod.dim_int, aten.cumprod.default)


def in_proportion_to_exponentials(call: Call, relevance: Tensor) -> Tensor:
    """Share relevance of a smooth maximum in proportion to ``exp(x_i)``, as sums of exponentials share."""
    largest = linear_maps.total(call, call.result.unsqueeze(0))[0]
    weights = torch.where(largest.isinf(), 0.0, (call.input - largest).exp())
    return linear_maps.total(call, relevance) * weights


def to_factors(call: Call, s: Tensor) -> Tensor:
    """Hand what lies at each output of a product to each of its factors."""
    return linear_maps.cumulated(call, s) if call.site.op == aten.cumprod.default else linear_maps.total(call, s)
