"""Pooling: averages and sums follow the formula, maxima are won by one entry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rule_registry.call import Call, Relevances, Shares, denominator, over, share
from rule_registry.moves.structural import to_taken
from rule_registry.operations import deviations, linear_maps
from rule_registry.registry import register

aten = torch.ops.aten


@register("abslrp", *linear_maps.AVERAGES, overwrites=True)
def average(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Averages, sums and interpolation, whose weights are never negative: ``x^+ W^T s``."""
    s = over(call, relevance, denominator(call, delta))
    x = call.input if call.site.nonnegative[0] else call.input.clamp(min=0)
    values = linear_maps.AVERAGES[call.site.op](call, s) * x
    return share(call, values, net=call.batch.dot_(s, call.result))


@register("abslrp", *deviations.SPREADS, overwrites=True)
def deviation(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Variance, standard deviation and vector norm: positive parts of ``x_i dz/dx_i``."""
    s = over(call, relevance, denominator(call, delta))
    pulled = linear_maps.total(call, s * deviations.factor(call))
    net = deviations.degree(call) * call.batch.dot_(s, call.result)
    return share(call, pulled * deviations.products(call).clamp(min=0), net=net)


@register("abslrp", aten.maximum.default, aten.minimum.default, overwrites=True)
def extreme(call: Call, relevance: Tensor) -> Relevances:
    """Winner takes all, the first where two tie; what falls on a constant goes to the activation."""
    a, b = call["self"], call["other"]
    return to_taken(call, relevance, a >= b if call.site.op == aten.maximum.default else a <= b)


@register(
    "abslrp",
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    overwrites=True,
)
def max_pool(call: Call, relevance: Tensor) -> Tensor:
    """Winner takes all; the first one where several tie."""
    x, dims = call.input, linear_maps.POOLED_AXES[call.site.op]
    pool = {1: F.max_pool1d_with_indices, 2: F.max_pool2d_with_indices, 3: F.max_pool3d_with_indices}[dims]
    # Faster on a CPU than for channels apart, the copy included.
    laid_out = x.contiguous(memory_format=torch.channels_last) if dims == 2 and x.ndim == 4 and x.is_cpu else x
    _, winners = pool(
        laid_out, call["kernel_size"], call["stride"] or None, call["padding"], call["dilation"], call["ceil_mode"]
    )
    flat = winners.flatten(-dims).expand(relevance.shape[0], *winners.shape[:-dims], -1)
    spread = relevance.new_zeros(relevance.shape[0], *x.shape).flatten(-dims)
    spread.scatter_add_(-1, flat, relevance.flatten(-dims))
    return spread.reshape(relevance.shape[0], *x.shape)


INDEXED = (
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    aten.max_pool1d_with_indices.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
)
"""Pooling that returns where in the picture the largest entries were."""


@register("abslrp", *INDEXED, overwrites=True)
def indexed_max_pool(call: Call, relevance: Sequence[Tensor]) -> Tensor:
    """Winner takes all."""
    x, winners, dims = call.input, call.output[1], linear_maps.POOLED_AXES[call.site.op]
    flat = winners.flatten(-dims).expand(relevance[0].shape[0], *winners.shape[:-dims], -1)
    spread = relevance[0].new_zeros(relevance[0].shape[0], *x.shape).flatten(-dims)
    return spread.scatter_add_(-1, flat, relevance[0].flatten(-dims)).reshape(-1, *x.shape)


@register("abslrp", aten.amax.default, aten.amin.default, overwrites=True)
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


@register("abslrp", *CHOICES, overwrites=True)
def best(call: Call, relevance: Sequence[Tensor | None]) -> Tensor:
    """Back to the entries that were chosen."""
    arrived, indices = relevance[0], call.output[1]
    assert arrived is not None
    dim = call["dim"] % call.input.ndim
    if not call.arguments.get("keepdim", True):
        arrived, indices = arrived.unsqueeze(dim + 1), indices.unsqueeze(dim)
    spread = arrived.new_zeros(arrived.shape[0], *call.input.shape)
    return spread.scatter_add_(dim + 1, indices.expand_as(arrived), arrived)
