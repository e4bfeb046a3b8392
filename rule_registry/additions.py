"""Sums in places that an index names, as graph networks take them: affine, with weights that are never negative."""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry import lrp  # noqa: F401  # its rule sets must be there
from rule_registry.call import Call, Relevances, Shares, Slot, denominator, over, share, sum_to
from rule_registry.lrp.formula import stabilised
from rule_registry.moves.writes import at_indices, gathered, index_put
from rule_registry.registry import register

aten = torch.ops.aten

ADDITIONS = (aten.scatter_add.default, aten.index_add.default, aten.scatter_reduce.two)
EXTREMES = ("amax", "amin")


@register("abslrp", *ADDITIONS, overwrites=True)
def add_at(call: Call, relevance: Tensor, *, delta: float) -> Relevances:
    """Sum, mean or extreme in the places of an index: each term's positive part, or winner takes all."""
    if call.arguments.get("reduce") in EXTREMES:
        return _to_winners(call, relevance)
    return _added(call, relevance, delta)


@register("epsilon", *ADDITIONS)
def proportional_add_at(call: Call, relevance: Tensor, *, stabilizer: float) -> Relevances:
    """Sum, mean or extreme in the places of an index: each term in proportion, or winner takes all."""
    if call.arguments.get("reduce") in EXTREMES:
        return _to_winners(call, relevance).values
    return _in_proportion(call, relevance, stabilizer)


@register("abslrp", aten.index_put.default, overwrites=True)
def put(call: Call, relevance: Tensor, *, delta: float) -> Relevances:
    """To what was written at indices, and elsewhere to what was there before; where it was added, as a sum."""
    return _added(call, relevance, delta) if call["accumulate"] else index_put(call, relevance)


@register("epsilon", aten.index_put.default)
def proportional_put(call: Call, relevance: Tensor, *, stabilizer: float) -> Relevances:
    """To what was written at indices, and elsewhere to what was there before; where it was added, as a sum."""
    return _in_proportion(call, relevance, stabilizer) if call["accumulate"] else index_put(call, relevance)


def _added(call: Call, relevance: Tensor, delta: float) -> Shares:
    s = over(call, relevance, denominator(call, delta))
    pulled = [(_pulled(call, slot, s), _term(call, slot)) for slot in call.site.active]
    values = [read * term.clamp(min=0) for read, term in pulled]
    masses = [mark.sum(read * term.abs()) for mark, (read, term) in zip(call.site.input_batch, pulled, strict=True)]
    return share(call, *values, total=torch.stack(masses).sum(0))


def _in_proportion(call: Call, relevance: Tensor, stabilizer: float) -> list[Tensor]:
    s = relevance / stabilised(call.result, stabilizer)
    return [_pulled(call, slot, s) * _term(call, slot) for slot in call.site.active]


def _term(call: Call, slot: Slot) -> Tensor:
    """Return an activation with the sign it is added with."""
    return call.value(slot) * (1 if slot.name == "self" else call.arguments.get("alpha", 1))


def _pulled(call: Call, slot: Slot, s: Tensor) -> Tensor:
    """Transpose the addition for one of its terms, but for the sign."""
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
    """Return what a reduction multiplies with, for each output: what was there before, and what is added.

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
    """Return how many entries of the source meet in each output."""
    ones = torch.ones_like(call["index"], dtype=call.result.dtype)
    return torch.zeros_like(call.result).scatter_add(call["dim"], call["index"], ones)


def _to_winners(call: Call, relevance: Tensor) -> Shares:
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
