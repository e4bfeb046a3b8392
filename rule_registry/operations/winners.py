"""Operations that choose entries: the one that is chosen takes all relevance, in every rule set that decomposes.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F

from rule_registry.call import Call, Relevances, share, sum_to
from rule_registry.operations import linear_maps

aten = torch.ops.aten

EXTREMES = (aten.maximum.default, aten.minimum.default)
"""The larger or smaller of two entries."""
MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
"""Pooling that returns the largest entries alone."""
INDEXED = (
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    aten.max_pool1d_with_indices.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
)
"""Pooling that returns where in the picture the largest entries were."""
AXIS_EXTREMES = (aten.amax.default, aten.amin.default)
"""The largest or smallest entry over some axes."""
CHOICES = (
    aten.max.dim,
    aten.min.dim,
    aten.median.dim,
    aten.nanmedian.dim,
    aten.mode.default,
    aten.kthvalue.default,
    aten.topk.default,
    aten.sort.default,
    aten.sort.stable,
    aten.cummax.default,
    aten.cummin.default,
)
"""Operations that return entries of an axis, and where these were."""


def to_chosen(call: Call, relevance: Tensor, first: Tensor) -> Relevances:
    """Hand relevance to ``self`` where that was chosen and to ``other`` elsewhere; a constant's to the activation.

    ``first`` says where ``self`` was chosen: truth values that broadcast to ``(*output)``.
    """
    sides = {"self": first, "other": ~first}
    values = [
        sum_to(torch.where(sides[slot.name], relevance, 0.0), call.value(slot).shape) for slot in call.site.active
    ]
    if len(values) == 2:
        return values
    return share(call, *values, total=call.batch.sum(relevance))


def extreme(call: Call, relevance: Tensor) -> Relevances:
    """Winner takes all, the first where two tie; what falls on a constant goes to the activation."""
    a, b = call["self"], call["other"]
    return to_chosen(call, relevance, a >= b if call.site.op == aten.maximum.default else a <= b)


def max_pool(call: Call, relevance: Tensor) -> Tensor:
    """Winner takes all; the first one where several tie."""
    x, dims = call.input, linear_maps.POOLED_AXES[call.site.op]
    pool = {1: F.max_pool1d_with_indices, 2: F.max_pool2d_with_indices, 3: F.max_pool3d_with_indices}[dims]
    # Faster on a CPU than for channels apart, the copy included (benchmarks choices: pooling).
    laid_out = x.contiguous(memory_format=torch.channels_last) if dims == 2 and x.ndim == 4 and x.is_cpu else x
    _, winners = pool(
        laid_out, call["kernel_size"], call["stride"] or None, call["padding"], call["dilation"], call["ceil_mode"]
    )
    return _put_at(winners, relevance, x, dims)


def indexed_max_pool(call: Call, relevance: Sequence[Tensor]) -> Tensor:
    """Winner takes all.

    The operation returns values and positions, and relevance has one entry for each: ``(S, *output)`` for the values.
    """
    return _put_at(call.output[1], relevance[0], call.input, linear_maps.POOLED_AXES[call.site.op])


def _put_at(winners: Tensor, relevance: Tensor, x: Tensor, dims: int) -> Tensor:
    """Add relevance ``(S, *output)`` to the entries of x that pooling over ``dims`` axes has chosen."""
    flat = winners.flatten(-dims).expand(relevance.shape[0], *winners.shape[:-dims], -1)
    spread = relevance.new_zeros(relevance.shape[0], *x.shape).flatten(-dims)
    spread.scatter_add_(-1, flat, relevance.flatten(-dims))
    return spread.reshape(relevance.shape[0], *x.shape)


def amax(call: Call, relevance: Tensor) -> Tensor:
    """Winner takes all; the first one where several tie."""
    x, s = call.input, linear_maps.total(call, relevance)
    dims = [d % x.ndim for d in call["dim"]] or list(range(x.ndim))
    last = [d for d in range(x.ndim) if d not in dims] + dims
    rows = x.permute(last).flatten(-len(dims))
    first = rows.argmax(-1) if call.site.op == aten.amax.default else rows.argmin(-1)
    winner = F.one_hot(first, rows.shape[-1]).to(s.dtype)
    back = winner.reshape([x.shape[d] for d in last]).permute(sorted(range(x.ndim), key=last.__getitem__))
    return s * back


def best(call: Call, relevance: Sequence[Tensor | None]) -> Tensor:
    """Back to the entries that were chosen.

    The operation returns values and positions, and relevance has one entry for each: ``(S, *output)`` for the values.
    """
    arrived, indices = relevance[0], call.output[1]
    assert arrived is not None
    dim = call["dim"] % call.input.ndim
    if not call.arguments.get("keepdim", True):
        arrived, indices = arrived.unsqueeze(dim + 1), indices.unsqueeze(dim)
    spread = arrived.new_zeros(arrived.shape[0], *call.input.shape)
    return spread.scatter_add_(dim + 1, indices.expand_as(arrived), arrived)


WINNERS: tuple[tuple[tuple[OpOverload, ...], Callable[..., Tensor]], ...] = (
    (MAX_POOLS, max_pool),
    (INDEXED, indexed_max_pool),
    (AXIS_EXTREMES, amax),
    (CHOICES, best),
)
"""Operations of one input that choose entries, and how relevance goes to these."""
