"""Interpolation at the positions of a grid.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rule_registry.call import Call
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.operations.sampling import SAMPLERS, pulled_times, sampled
from rule_registry.registry import register


@register(EPSILON, *SAMPLERS, picks=True)
def proportional_sample(call: Call, relevance: Tensor, *, stabilizer: float) -> Sequence[Tensor]:
    """Grid sampling, the positions held: in proportion to the weighted inputs."""
    return pulled_times(call, relevance / stabilised(call.result, stabilizer), sampled(call))
