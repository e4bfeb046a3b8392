"""Products of two activations: attention scores, attention-weighted values, and their affine special case."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.abslrp.linear import positive_contributions
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations.products import factors, names
from rule_registry.registry import register

aten = torch.ops.aten


@register(ABSLRP, aten.matmul.default, aten.bmm.default, aten.mm.default, overwrites=True)
def matmul(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Matrix product: the formula for each factor that is an activation, the other one held."""
    return _shared(call, over(call, relevance, denominator(call, delta)), call.result)


@register(ABSLRP, aten.addmm.default, aten.baddbmm.default, overwrites=True)
def add_matmul(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """``beta * self + alpha * (a @ b)`` with a constant summand, which receives nothing."""
    left, right = names(call)
    product = (call[left] @ call[right]) * call["alpha"]
    return _shared(call, over(call, relevance, denominator(call, delta)), product)


def _shared(call: Call, s: Tensor, product: Tensor) -> Shares:
    values = factors(call, s, positive_contributions)
    return share(call, *values, net=len(values) * call.batch.dot_(s, product))
