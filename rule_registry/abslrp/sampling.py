"""Interpolation at the positions of a grid."""

from __future__ import annotations

from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations.sampling import SAMPLERS, pulled_times, sampled
from rule_registry.registry import register


@register(ABSLRP, *SAMPLERS, overwrites=True, picks=True)
def sample(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Grid sampling, the positions held: ``x^+ W^T s``."""
    s = over(call, relevance, denominator(call, delta))
    return share(call, *pulled_times(call, s, sampled(call).clamp(min=0)), net=call.batch.dot_(s, call.result))
