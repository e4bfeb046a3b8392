"""Products of two activations, and with a constant."""

from __future__ import annotations

from torch import Tensor

from rule_registry.call import Call
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.operations import products
from rule_registry.registry import register


@register(EPSILON, *products.FACTORS)
def matmul(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Matrix product: with a constant a layer; of two activations half of ``a_ik b_kj R_ij / z_ij`` for each.

    The halves are those of Achtibat et al. 2024, Eq. 15.
    """
    s = relevance / stabilised(len(call.site.active) * call.result, stabilizer)
    return products.factors(call, s, lambda x, nonnegative, other, pull: pull(other) * x)
