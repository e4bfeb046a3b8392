"""Bicubic interpolation, whose weights have both signs.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from torch import Tensor

from rule_registry.call import Call
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.operations import linear_maps
from rule_registry.registry import register


@register(EPSILON, *linear_maps.BICUBIC)
def bicubic(call: Call, relevance: Tensor, *, stabilizer: float) -> Tensor:
    """Interpolation with negative weights: shares in proportion to the weighted inputs."""
    return linear_maps.interpolation(call, relevance / stabilised(call.result, stabilizer)) * call.input
