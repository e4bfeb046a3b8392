"""Moving relevance exactly: the transposes of operations that only move, copy or drop entries.

Every other rule set builds on these, so the gradient oracle tests them on each model it is run on.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
Relevance of several outputs is a sequence of one ``(S, *part)`` for each, with None for one that nobody used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rule_registry.call import Call, Relevances, share, sum_to
from rule_registry.moves.definition import STRUCTURAL
from rule_registry.operations.winners import to_chosen
from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

register(
    STRUCTURAL,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    rule=passes,
    keeps=True,
)


@register(
    STRUCTURAL,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    overwrites=True,
)
def reshape(call: Call, relevance: Tensor) -> Tensor:
    """Keep entries and order: back to the input's shape."""
    return relevance.reshape(relevance.shape[0], *call.input.shape)


@register(STRUCTURAL, aten.permute.default, overwrites=True)
def permute(call: Call, relevance: Tensor) -> Tensor:
    """Permute with the inverse order."""
    order = [d % call.input.ndim for d in call["dims"]]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return relevance.permute(0, *(d + 1 for d in inverse))


@register(STRUCTURAL, aten.transpose.int, overwrites=True)
def transpose(call: Call, relevance: Tensor) -> Tensor:
    """Swap the two axes back."""
    ndim = call.input.ndim
    return relevance.transpose(call["dim0"] % ndim + 1, call["dim1"] % ndim + 1)


@register(STRUCTURAL, aten.t.default, aten.numpy_T.default, overwrites=True)
def reverse(call: Call, relevance: Tensor) -> Tensor:
    """Reverse the axes back."""
    return relevance.permute(0, *range(relevance.ndim - 1, 0, -1))


@register(STRUCTURAL, aten.expand.default, overwrites=True)
def expand(call: Call, relevance: Tensor) -> Tensor:
    """Sum over the copies."""
    return sum_to(relevance, call.input.shape)


@register(STRUCTURAL, aten.repeat.default, overwrites=True)
def repeat(call: Call, relevance: Tensor) -> Tensor:
    """Sum over the copies."""
    repeats = list(call["repeats"])
    shape = [1] * (len(repeats) - call.input.ndim) + list(call.input.shape)
    pairs = [size for pair in zip(repeats, shape, strict=True) for size in pair]
    copies = relevance.reshape(relevance.shape[0], *pairs).sum(list(range(1, len(pairs), 2)))
    return copies.reshape(relevance.shape[0], *call.input.shape)


@register(STRUCTURAL, aten.cat.default, overwrites=True)
def cat(call: Call, relevance: Tensor) -> Relevances:
    """Cut into the parts; what falls on constant parts goes to the activations."""
    dim = call["dim"] % call.result.ndim + 1
    # torch lets a part without any entry be of one axis
    sizes = [part.shape[dim - 1] if part.ndim == call.result.ndim else 0 for part in call["tensors"]]
    return _among_constants(call, relevance, relevance.split(sizes, dim))


@register(STRUCTURAL, aten.stack.default, overwrites=True)
def stack(call: Call, relevance: Tensor) -> Relevances:
    """Cut into the parts; what falls on constant parts goes to the activations."""
    parts = relevance.unbind(call["dim"] % call.result.ndim + 1)
    return _among_constants(call, relevance, parts)


def _among_constants(call: Call, relevance: Tensor, parts: Sequence[Tensor]) -> Relevances:
    """Hand each part, ``(S, *part)``, to its activation, and what falls on constants to these in proportion."""
    active = [parts[slot.item] for slot in call.site.active if slot.item is not None]
    if len(active) == len(parts):
        return active
    return share(call, *active, total=call.batch.sum(relevance))


@register(STRUCTURAL, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, overwrites=True)
def split(call: Call, relevance: Sequence[Tensor | None]) -> Tensor:
    """Join the parts again; zeros where nobody used one."""
    return torch.cat(_filled(call, relevance), call["dim"] % call.input.ndim + 1)


@register(STRUCTURAL, aten.unbind.int, overwrites=True)
def unbind(call: Call, relevance: Sequence[Tensor | None]) -> Tensor:
    """Join the parts again; zeros where nobody used one."""
    return torch.stack(_filled(call, relevance), call["dim"] % call.input.ndim + 1)


def _filled(call: Call, relevance: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the relevance of each output, ``(S, *part)``; zeros where nobody used one."""
    like = next(part for part in relevance if part is not None)
    return [
        like.new_zeros(like.shape[0], *out.shape) if part is None else part
        for part, out in zip(relevance, call.output, strict=True)
    ]


@register(STRUCTURAL, aten.slice.Tensor, overwrites=True)
def slice_(call: Call, relevance: Tensor) -> Tensor:
    """Put back in place, zeros elsewhere."""
    shape = [relevance.shape[0], *call.input.shape]
    dim = call["dim"] % call.input.ndim + 1
    start = 0 if call["start"] is None else call["start"]
    end = shape[dim] if call["end"] is None else call["end"]
    back: Tensor = aten.slice_backward(relevance, shape, dim, start, end, call["step"])
    return back


@register(STRUCTURAL, aten.select.int, overwrites=True)
def select(call: Call, relevance: Tensor) -> Tensor:
    """Put back in place, zeros elsewhere."""
    shape = [relevance.shape[0], *call.input.shape]
    back: Tensor = aten.select_backward(relevance, shape, call["dim"] % call.input.ndim + 1, call["index"])
    return back


@register(STRUCTURAL, aten.roll.default, overwrites=True)
def roll(call: Call, relevance: Tensor) -> Tensor:
    """Roll back."""
    shifts = [-shift for shift in call["shifts"]]
    if not call["dims"]:
        return relevance.flatten(1).roll(shifts, 1).reshape(relevance.shape)
    return relevance.roll(shifts, [d % call.input.ndim + 1 for d in call["dims"]])


@register(STRUCTURAL, aten.flip.default, overwrites=True)
def flip(call: Call, relevance: Tensor) -> Tensor:
    """Flip back."""
    return relevance.flip([d % call.input.ndim + 1 for d in call["dims"]])


@register(
    STRUCTURAL,
    aten.index.Tensor,
    aten.index_select.default,
    aten.gather.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.channel_shuffle.default,
    aten.diagonal.default,
    aten.unfold.default,
    aten.tile.default,
    aten.repeat_interleave.self_int,
    aten.rot90.default,
    overwrites=True,
)
def gather(call: Call, relevance: Tensor) -> Tensor:
    """Add each entry to where it was read from, found by moving the positions themselves."""
    source = call.input
    positions = torch.arange(source.numel(), device=source.device).reshape(source.shape)
    (slot,) = call.site.active
    return _added(call, relevance, call.site.op(**{**call.arguments, slot.name: positions}))


def _added(call: Call, relevance: Tensor, positions: Tensor) -> Tensor:
    """Add each entry to the one of the input at its position, which ``positions``, ``(*output)``, counts flattened."""
    flat = relevance.new_zeros(relevance.shape[0], call.input.numel())
    flat = flat.index_add(1, positions.flatten(), relevance.flatten(1))
    return flat.reshape(relevance.shape[0], *call.input.shape)


@register(STRUCTURAL, aten.pad.default, aten.constant_pad_nd.default, overwrites=True)
def pad(call: Call, relevance: Tensor) -> Relevances:
    """Cut the border off; what falls on it goes to the activations (it was read, in the other modes)."""
    mode = call.arguments.get("mode", "constant")
    widths = list(call["pad"])
    if mode != "constant":
        return _fold_border(call, relevance, widths, mode)
    inner = F.pad(relevance, [-width for width in widths])
    if any(width > 0 for width in widths):
        return share(call, inner, total=call.batch.sum(relevance))
    return inner


@register(STRUCTURAL, aten.im2col.default, overwrites=True)
def patches(call: Call, relevance: Tensor) -> Relevances:
    """Add overlapping patches up; what falls on the padding goes to the activations."""
    windows = (call[name] for name in ("kernel_size", "dilation", "padding", "stride"))
    joined = aten.col2im(relevance.flatten(0, 1), call.input.shape[-2:], *windows)
    joined = joined.reshape(relevance.shape[0], *call.input.shape)
    return share(call, joined, total=call.batch.sum(relevance)) if any(call["padding"]) else joined


def _fold_border(call: Call, relevance: Tensor, widths: list[int], mode: str) -> Tensor:
    """Add the border of a padding back to the entries that were read for it."""
    source = call.input
    positions = torch.arange(source.numel(), device=source.device, dtype=torch.float64).reshape(source.shape)
    return _added(call, relevance, F.pad(positions, widths, mode=mode).long())


@register(STRUCTURAL, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, overwrites=True)
def where(call: Call, relevance: Tensor) -> Relevances:
    """To whichever side was taken; what falls on a constant side goes to the activations."""
    return to_chosen(call, relevance, call["condition"])
