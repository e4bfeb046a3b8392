"""Sums in places that an index names, as graph networks take them.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.call import Call, Relevances, Shares, denominator, over, share
from rule_registry.moves.writes import index_put
from rule_registry.operations import additions
from rule_registry.orientation import halves, orientation
from rule_registry.registry import register

aten = torch.ops.aten


@register(ABSLRP, *additions.ADDITIONS, overwrites=True, picks=True, contributes=True)
def add_at(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """Sum, mean or extreme in the places of an index: each term's part of the sum's sign, or winner takes all."""
    if call.arguments.get("reduce") in additions.EXTREMES:
        return additions.to_winners(call, relevance)
    return _added(call, relevance, delta, signed)


@register(ABSLRP, aten.index_put.default, overwrites=True, picks=True)
def put(call: Call, relevance: Tensor, *, delta: float, signed: bool) -> Relevances:
    """To what was written at indices, and elsewhere to what was there before; where it was added, as a sum."""
    return _added(call, relevance, delta, signed) if call["accumulate"] else index_put(call, relevance)


def _added(call: Call, relevance: Tensor, delta: float, signed: bool) -> Shares:
    """Share by each term's part of the sum's own sign, where the index put it."""
    sign = orientation(call, signed)
    s = over(call, relevance, denominator(call, delta))
    pulled = [(additions.pulled(call, slot, s), additions.term(call, slot)) for slot in call.site.active]
    if sign is None:
        values = [read * term.clamp(min=0) for read, term in pulled]
    else:
        raised, lowered = halves(s, sign)
        values = [
            additions.pulled(call, slot, raised) * term.clamp(min=0)
            - additions.pulled(call, slot, lowered) * term.clamp(max=0)
            for slot, (_, term) in zip(call.site.active, pulled, strict=True)
        ]
    masses = [mark.sum(read * term.abs()) for mark, (read, term) in zip(call.site.input_batch, pulled, strict=True)]
    return share(call, *values, total=torch.stack(masses).sum(0))
