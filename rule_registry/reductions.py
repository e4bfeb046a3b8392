"""Products and smooth maxima along an axis: each is what it would be if a model spelled it in single operations."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry import lrp  # noqa: F401  # its rule sets must be there
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.lrp.formula import stabilised
from rule_registry.operations import linear_maps
from rule_registry.registry import register

aten = torch.ops.aten

PRODUCTS = (aten.prod.dim_int, aten.cumprod.default)


@register("abslrp", aten.logsumexp.default)
def smooth_maximum(call: Call, relevance: Tensor) -> Shares:
    """Smooth maximum: in proportion to ``exp(x_i)``, as sums of exponentials share; the logarithm passes."""
    largest = linear_maps.total(call, call.result.unsqueeze(0))[0]
    weights = torch.where(largest.isinf(), 0.0, (call.input - largest).exp())
    return share(call, linear_maps.total(call, relevance) * weights, total=call.batch.sum(relevance))


@register("epsilon", aten.logsumexp.default)
def proportional_smooth_maximum(call: Call, relevance: Tensor) -> Tensor:
    """Smooth maximum: in proportion to ``exp(x_i)``, as sums of exponentials share; the logarithm passes."""
    return smooth_maximum(call, relevance).values[0]


@register("abslrp", *PRODUCTS, overwrites=True)
def product(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Product of the entries of an axis: each of them contributes the output, as each factor of a product does."""
    s = over(call, relevance, denominator(call, delta))
    total = call.site.input_batch[0].sum(_to_factors(call, s * call.result.abs()))
    return share(call, _to_factors(call, s * call.result.clamp(min=0)), total=total)


@register("epsilon", *PRODUCTS)
def proportional_product(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Product of the entries of an axis: the same share for each."""
    running = call.site.op == aten.cumprod.default
    count = torch.ones_like(call.result).cumsum(call["dim"]) if running else call.input.numel() / call.result.numel()
    return _to_factors(call, relevance / stabilised(count * call.result, stabilizer) * call.result)


def _to_factors(call: Call, s: Tensor) -> Tensor:
    """Hand what lies at each output to each of its factors."""
    return linear_maps.cumulated(call, s) if call.site.op == aten.cumprod.default else linear_maps.total(call, s)
