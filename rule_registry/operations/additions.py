"""Sums in places that an index names, as graph networks take them: affine, with weights that are never negative.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, Shares, Slot, share, sum_to
from rule_registry.operations.indexing import at_indices, gathered

aten = torch.ops.aten

ADDITIONS = (aten.scatter_add.default, aten.index_add.default, aten.scatter_reduce.two)
EXTREMES = ("amax", "amin")
"""Reductions of ``scatter_reduce`` that choose an entry."""


def term(call: Call, slot: Slot) -> Tensor:
    """Return an activation, ``(*input)``, times the factor it is added with."""
    return call.value(slot) * (1 if slot.name == "self" else call.arguments.get("alpha", 1))


def pulled(call: Call, slot: Slot, s: Tensor) -> Tensor:
    """Transpose the addition for a term, without its factor: ``(S, *output)`` to ``(S, *input)``."""
    weights = _weights(call) if "reduce" in call.arguments else None
    if slot.name == "self":
        return s if weights is None else s * weights[0]
    return sum_to(_at_index(call, s if weights is None else s * weights[1]), call.value(slot).shape)


def _at_index(call: Call, s: Tensor) -> Tensor:
    """Read what lies in the places that were added to, ``(S, *source)``."""
    if call.site.op == aten.index_put.default:
        return at_indices(call, s)
    if call.site.op == aten.index_add.default:
        return s.index_select(call["dim"] % call.result.ndim + 1, call["index"])
    return gathered(call, s)


def _weights(call: Call) -> tuple[Tensor, Tensor]:
    """Return what a reduction multiplies with, ``(*output)`` each: what was there before, and what is added.

    Raises
    ------
    NotImplementedError
        If it is none of sum and mean.
    """
    if call["reduce"] not in ("sum", "mean"):
        raise NotImplementedError(f"{call.site.op} at {call.site.path!r} with reduce={call['reduce']!r}")
    added, before = _counts(call), float(call["include_self"])
    count = (added + before).clamp(min=1) if call["reduce"] == "mean" else torch.ones_like(added)
    return torch.where(added == 0, 1.0, before / count), 1 / count


def _counts(call: Call) -> Tensor:
    """Return how many entries of the source meet in each output, ``(*output)``."""
    ones = torch.ones_like(call["index"], dtype=call.result.dtype)
    return torch.zeros_like(call.result).scatter_add(call["dim"], call["index"], ones)


def to_winners(call: Call, relevance: Tensor) -> Shares:
    """Hand relevance to the entries that are the extreme, equal parts where several tie; a constant's to the others."""
    ones = torch.ones_like(call.result).unsqueeze(0)
    reached = _at_index(call, ones)[0] > 0
    wins = {
        "src": reached & (call["src"] == _at_index(call, call.result.unsqueeze(0))[0]),
        "self": (call["self"] == call.result) & ((_counts(call) == 0) | call["include_self"]),
    }
    index = call["index"]
    won = wins["src"][tuple(slice(size) for size in index.shape)].to(call.result.dtype)
    several = wins["self"].to(call.result.dtype).scatter_add(call["dim"], index, won)
    s = relevance / several.clamp(min=1)
    values = [(s if slot.name == "self" else _at_index(call, s)) * wins[slot.name] for slot in call.site.active]
    return share(call, *values, total=call.batch.sum(relevance))
