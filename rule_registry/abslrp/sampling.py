"""Interpolation at the positions of a grid.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Shares, denominator, over, share
from rule_registry.operations.sampling import SAMPLERS, pulled_times, sampled
from rule_registry.orientation import halves, orientation
from rule_registry.registry import register


@register(ABSLRP, *SAMPLERS, overwrites=True, picks=True, contributes=True)
def sample(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Grid sampling, the positions held: ``x^+ W^T s^+ + |x^-| W^T s^-``."""
    sign, x = orientation(call, signed), sampled(call)
    s = over(call, relevance, denominator(call, delta))
    if sign is None:
        return share(call, *pulled_times(call, s, x.clamp(min=0)), net=call.batch.dot_(s, call.result))
    raised, lowered = halves(s, sign)
    up, down = pulled_times(call, raised, x.clamp(min=0)), pulled_times(call, lowered, x.clamp(max=0))
    values = [positive - negative for positive, negative in zip(up, down, strict=True)]
    return share(call, *values, net=call.batch.dot_(s.mul_(sign), call.result))
