"""Moves that write into a tensor: relevance goes to what was written, and elsewhere to what was there before.

What falls on constants, that were written or written into, goes to the activations, as everywhere among the moves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import rule_registry.moves.structural  # noqa: F401  # the base must be there
from rule_registry.call import Call, Relevances, share, sum_to
from rule_registry.registry import register

aten = torch.ops.aten


def _parted(call: Call, relevance: Tensor, kept: Tensor, written: Tensor | None = None) -> Relevances:
    """Hand on what was kept and what was written, to those of both that are activations."""
    found = []
    for slot in call.site.active:
        value = kept if slot.name == "self" else written
        assert value is not None, f"{call.site.op} writes no activation"
        found.append(sum_to(value, call.value(slot).shape))
    return found if len(found) == 2 else share(call, *found, total=call.batch.sum(relevance))


@register("structural", aten.slice_scatter.default, aten.select_scatter.default, overwrites=True)
def part(call: Call, relevance: Tensor) -> Relevances:
    """To what was written, and elsewhere to what was there before; what falls on a constant goes to the activation."""
    dim = call["dim"] % call.result.ndim + 1
    if call.site.op == aten.select_scatter.default:
        where = (dim, call["index"])
        written = relevance.select(*where)
        kept = relevance.select_scatter(torch.zeros_like(written), *where)
    else:
        ends = (dim, call["start"], call["end"], call["step"])
        written = aten.slice(relevance, *ends)
        kept = relevance.slice_scatter(torch.zeros_like(written), *ends)
    return _parted(call, relevance, kept, written)


@register("structural", aten.scatter.src, aten.scatter.value, overwrites=True)
def scatter(call: Call, relevance: Tensor) -> Relevances:
    """To what was written at an index, and elsewhere to what was there before."""
    dim, index = call["dim"] % call.result.ndim + 1, call["index"].expand(len(relevance), *call["index"].shape)
    kept = relevance.scatter(dim, index, 0.0)
    return _parted(call, relevance, kept, None if call.site.op == aten.scatter.value else gathered(call, relevance))


def gathered(call: Call, relevance: Tensor) -> Tensor:
    """Read what lies where a ``scatter`` wrote, ``(S, *src)``; of its source it writes as much as the index has."""
    dim, index, source = call["dim"] % call.result.ndim + 1, call["index"], call["src"]
    unread = [size - read for size, read in zip(source.shape, index.shape, strict=True)]
    margins = [side for width in reversed(unread) for side in (0, width)]
    return F.pad(relevance.gather(dim, index.expand(len(relevance), *index.shape)), margins)


@register("structural", aten.index_put.default, overwrites=True)
def index_put(call: Call, relevance: Tensor) -> Relevances:
    """To what was written at indices, and elsewhere to what was there before; to both where it was added."""
    written = at_indices(call, relevance)
    if call["accumulate"]:
        return _parted(call, relevance, relevance, written)
    nothing = written.new_zeros(())
    kept = torch.stack([aten.index_put(seed, call["indices"], nothing) for seed in relevance])
    return _parted(call, relevance, kept, written)


def at_indices(call: Call, relevance: Tensor) -> Tensor:
    """Read what lies at the indices of an ``index_put``, ``(S, *values)`` before these were broadcast.

    Seed by seed: an axis in front of indices that are not neighbours would change the order of the others.
    """
    return torch.stack([aten.index(seed, call["indices"]) for seed in relevance])


@register("structural", aten.index_fill.int_Scalar, aten.index_fill.int_Tensor, overwrites=True)
def index_fill(call: Call, relevance: Tensor) -> Relevances:
    """Zero where entries were filled; what falls on these goes to the activations."""
    kept = relevance.index_fill(call["dim"] % call.result.ndim + 1, call["index"], 0.0)
    return _parted(call, relevance, kept)


@register("structural", aten.masked_fill.Scalar, aten.masked_fill.Tensor, overwrites=True)
def masked_fill(call: Call, relevance: Tensor) -> Relevances:
    """Zero under the mask; what falls on the filled entries goes to the activations."""
    return _parted(call, relevance, torch.where(call["mask"], 0.0, relevance))


@register("structural", aten.tril.default, aten.triu.default, overwrites=True)
def triangle(call: Call, relevance: Tensor) -> Relevances:
    """Zero where entries were set to zero; what falls on these goes to the activations."""
    kept: Tensor = call.site.op(relevance, call["diagonal"])
    return _parted(call, relevance, kept)


@register("structural", aten.max_unpool2d.default, aten.max_unpool3d.default, overwrites=True)
def unpool(call: Call, relevance: Tensor) -> Relevances:
    """Read at the positions that were written to; what falls on the others goes to the activations."""
    axes = 2 if call.site.op == aten.max_unpool2d.default else 3
    positions = call["indices"].flatten(-axes)
    read = relevance.flatten(-axes).gather(-1, positions.expand(len(relevance), *positions.shape))
    return share(call, read.reshape(len(relevance), *call.input.shape), total=call.batch.sum(relevance))
