"""Norms with their statistics held: affine operations that act on each entry alone.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.abslrp.elementwise import positive_part
from rule_registry.call import Call, Shares, share
from rule_registry.operations import norms
from rule_registry.orientation import oriented_denominator
from rule_registry.registry import register


@register(ABSLRP, *norms.NORMS, overwrites=True, contributes=True)
def norm(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Shares:
    """Norm with its statistics held: ``(x w sgn z / sigma)^+``, not centred."""
    ratio = norms.scaled(call, call.input).div_(oriented_denominator(call, delta, signed))
    values, net = positive_part(call, relevance, ratio)
    return share(call, values, net=net)


@register(ABSLRP, norms.BATCH_NORM, overwrites=True, contributes=True)
def batch_norm(call: Call, relevance: Sequence[Tensor], *, delta: float, signed: bool) -> Shares:
    """Batch norm in evaluation mode: a gain and a shift per channel.

    It returns several tensors, and relevance has one entry for each: ``(S, *output)`` for the first.
    """
    return norm(call, relevance[0], delta=delta, signed=signed)
