"""Sums in places that an index names, as graph networks take them.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, Relevances
from rule_registry.lrp.definition import EPSILON
from rule_registry.lrp.formula import stabilised
from rule_registry.moves.writes import index_put
from rule_registry.operations import additions
from rule_registry.registry import register

aten = torch.ops.aten


@register(EPSILON, *additions.ADDITIONS, picks=True)
def proportional_add_at(call: Call, relevance: Tensor, *, stabilizer: float) -> Relevances:
    """Sum, mean or extreme in the places of an index: each term in proportion, or winner takes all."""
    if call.arguments.get("reduce") in additions.EXTREMES:
        return additions.to_winners(call, relevance).values
    return _in_proportion(call, relevance, stabilizer)


@register(EPSILON, aten.index_put.default, picks=True)
def proportional_put(call: Call, relevance: Tensor, *, stabilizer: float) -> Relevances:
    """To what was written at indices, and elsewhere to what was there before; where it was added, as a sum."""
    return _in_proportion(call, relevance, stabilizer) if call["accumulate"] else index_put(call, relevance)


def _in_proportion(call: Call, relevance: Tensor, stabilizer: float) -> list[Tensor]:
    """Share in proportion to the terms of a stabilised sum."""
    s = relevance / stabilised(call.result, stabilizer)
    return [additions.pulled(call, slot, s) * additions.term(call, slot) for slot in call.site.active]
