"""Moves that write into a tensor: relevance goes to what was written, and elsewhere to what was there before.

What falls on constants, that were written or written into, goes to the activations, as everywhere among the moves.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, Relevances, share, sum_to
from rule_registry.moves.definition import STRUCTURAL
from rule_registry.operations.indexing import at_indices, gathered
from rule_registry.registry import register

aten = torch.ops.aten


def _parted(call: Call, relevance: Tensor, kept: Tensor, written: Tensor | None = None) -> Relevances:
    """Hand on what was kept, ``(S, *output)``, and what was written, to those of both that are activations.

    What was written is ``(S, *written)``, before it is summed over what the values were broadcast to.
    """
    found = []
    for slot in call.site.active:
        value = kept if slot.name == "self" else written
        assert value is not None, f"{call.site.op} writes no activation"
        found.append(sum_to(value, call.value(slot).shape))
    return found if len(found) == 2 else share(call, *found, total=call.batch.sum(relevance))


@register(STRUCTURAL, aten.slice_scatter.default, aten.select_scatter.default, overwrites=True)
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


@register(STRUCTURAL, aten.scatter.src, aten.scatter.value, overwrites=True)
def scatter(call: Call, relevance: Tensor) -> Relevances:
    """To what was written at an index, and elsewhere to what was there before."""
    dim, index = call["dim"] % call.result.ndim + 1, call["index"].expand(len(relevance), *call["index"].shape)
    kept = relevance.scatter(dim, index, 0.0)
    return _parted(call, relevance, kept, None if call.site.op == aten.scatter.value else gathered(call, relevance))


@register(STRUCTURAL, aten.index_put.default, overwrites=True)
def index_put(call: Call, relevance: Tensor) -> Relevances:
    """To what was written at indices, and elsewhere to what was there before; to both where it was added."""
    written = at_indices(call, relevance)
    if call["accumulate"]:
        return _parted(call, relevance, relevance, written)
    nothing = written.new_zeros(())
    kept = torch.stack([aten.index_put(seed, call["indices"], nothing) for seed in relevance])
    return _parted(call, relevance, kept, written)


@register(STRUCTURAL, aten.index_fill.int_Scalar, aten.index_fill.int_Tensor, overwrites=True)
def index_fill(call: Call, relevance: Tensor) -> Relevances:
    """Zero where entries were filled; what falls on these goes to the activations."""
    kept = relevance.index_fill(call["dim"] % call.result.ndim + 1, call["index"], 0.0)
    return _parted(call, relevance, kept)


@register(STRUCTURAL, aten.masked_fill.Scalar, aten.masked_fill.Tensor, overwrites=True)
def masked_fill(call: Call, relevance: Tensor) -> Relevances:
    """Zero under the mask; what falls on the filled entries goes to the activations."""
    return _parted(call, relevance, torch.where(call["mask"], 0.0, relevance))


@register(STRUCTURAL, aten.tril.default, aten.triu.default, overwrites=True)
def triangle(call: Call, relevance: Tensor) -> Relevances:
    """Zero where entries were set to zero; what falls on these goes to the activations."""
    kept: Tensor = call.site.op(relevance, call["diagonal"])
    return _parted(call, relevance, kept)


@register(STRUCTURAL, aten.max_unpool2d.default, aten.max_unpool3d.default, overwrites=True)
def unpool(call: Call, relevance: Tensor) -> Relevances:
    """Read at the positions that were written to; what falls on the others goes to the activations."""
    axes = 2 if call.site.op == aten.max_unpool2d.default else 3
    positions = call["indices"].flatten(-axes)
    read = relevance.flatten(-axes).gather(-1, positions.expand(len(relevance), *positions.shape))
    return share(call, read.reshape(len(relevance), *call.input.shape), total=call.batch.sum(relevance))
