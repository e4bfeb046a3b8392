"""Pooling: averages and sums follow the formula, maxima are won by one entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rule_registry.call import Call, Shares, denominator, share
from rule_registry.registry import register

aten = torch.ops.aten


def averaged(call: Call, relevance: Tensor, delta: float, pull: Callable[[Tensor], Tensor]) -> Shares:
    """Share of an operation whose weights are all non-negative: ``x^+ W^T s``."""
    s = relevance / denominator(call, delta)
    x = call.input if call.site.nonnegative[0] else call.input.clamp(min=0)
    return share(call, pull(s) * x, net=call.batch.dot(s, call.result))


@register("abslrp", aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def avg_pool(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Average pooling in one to three dimensions."""
    windows = [list(call[name]) for name in ("kernel_size", "stride", "padding")]
    modes = (call["ceil_mode"], call["count_include_pad"], call.arguments.get("divisor_override"))
    if call.input.ndim == 3:  # one dimension is two, the first of which is one entry high
        windows = [[neutral, *window] if window else [] for neutral, window in zip((1, 1, 0), windows, strict=True)]
    backward = aten.avg_pool3d_backward if call.input.ndim == 5 else aten.avg_pool2d_backward
    return averaged(call, relevance, delta, lambda s: _pooled_back(call, s, backward, *windows, *modes))


@register(
    "abslrp",
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
)
def adaptive_avg_pool(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Average pooling to a given size."""
    three = call.input.ndim == 5
    backward = aten._adaptive_avg_pool3d_backward if three else aten._adaptive_avg_pool2d_backward
    return averaged(call, relevance, delta, lambda s: _pooled_back(call, s, backward))


def _pooled_back(call: Call, s: Tensor, backward: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Apply torch's own transpose of a pooling, with the seeds merged into the batch."""
    merged, shape = s.flatten(0, 1), call.input.shape
    if len(shape) == 3:
        merged, shape = merged.unsqueeze(2), torch.Size([shape[0], shape[1], 1, shape[2]])
    like = call.input.new_empty(1).expand(merged.shape[0], *shape[1:])
    return backward(merged, like, *arguments).reshape(s.shape[0], *call.input.shape)


@register("abslrp", aten.mean.dim, aten.mean.default)
def mean(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Mean over some axes."""
    count = call.input.numel() // call.result.numel()
    return averaged(call, relevance, delta, lambda s: _expanded(call, s) / count)


@register("abslrp", aten.sum.dim_IntList, aten.sum.default)
def sum_(call: Call, relevance: Tensor, *, delta: float) -> Shares:
    """Sum over some axes."""
    return averaged(call, relevance, delta, lambda s: _expanded(call, s))


def _expanded(call: Call, s: Tensor) -> Tensor:
    """Give a reduced relevance its reduced axes back."""
    shape = call.input.shape
    if not call.arguments.get("keepdim"):
        dims = call.arguments.get("dim")
        dims = range(len(shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        for d in sorted(d % len(shape) for d in dims):
            s = s.unsqueeze(d + 1)
    return s.expand(s.shape[0], *shape)


@register(
    "abslrp",
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
)
def max_pool(call: Call, relevance: Tensor) -> Tensor:
    """Winner takes all; the first one where several tie."""
    x, dims = call.input, len(call["kernel_size"])
    pool = {1: F.max_pool1d_with_indices, 2: F.max_pool2d_with_indices, 3: F.max_pool3d_with_indices}[dims]
    _, winners = pool(
        x, call["kernel_size"], call["stride"] or None, call["padding"], call["dilation"], call["ceil_mode"]
    )
    flat = winners.flatten(-dims).expand(relevance.shape[0], *winners.shape[:-dims], -1)
    spread = relevance.new_zeros(relevance.shape[0], *x.shape).flatten(-dims)
    spread = spread.scatter_add(-1, flat, relevance.flatten(-dims))
    return spread.reshape(relevance.shape[0], *x.shape)


@register(
    "abslrp",
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
)
def adaptive_max_pool(call: Call, relevance: Sequence[Tensor]) -> Tensor:
    """Winner takes all."""
    x, winners, dims = call.input, call.output[1], len(call["output_size"])
    flat = winners.flatten(-dims).expand(relevance[0].shape[0], *winners.shape[:-dims], -1)
    spread = relevance[0].new_zeros(relevance[0].shape[0], *x.shape).flatten(-dims)
    return spread.scatter_add(-1, flat, relevance[0].flatten(-dims)).reshape(-1, *x.shape)


@register("abslrp", aten.amax.default)
def amax(call: Call, relevance: Tensor) -> Tensor:
    """Winner takes all; the first one where several tie."""
    x, s = call.input, _expanded(call, relevance)
    dims = [d % x.ndim for d in call["dim"]] or list(range(x.ndim))
    last = [d for d in range(x.ndim) if d not in dims] + dims
    rows = x.permute(last).flatten(-len(dims))
    winner = F.one_hot(rows.argmax(-1), rows.shape[-1]).to(s.dtype)
    back = winner.reshape([x.shape[d] for d in last]).permute(sorted(range(x.ndim), key=last.__getitem__))
    return s * back


@register("abslrp", aten.max.dim, aten.topk.default)
def best(call: Call, relevance: Sequence[Tensor | None]) -> Tensor:
    """Back to the entries that were chosen."""
    arrived, indices = relevance[0], call.output[1]
    assert arrived is not None
    dim = call["dim"] % call.input.ndim
    if not call.arguments.get("keepdim", True):
        arrived, indices = arrived.unsqueeze(dim + 1), indices.unsqueeze(dim)
    spread = arrived.new_zeros(arrived.shape[0], *call.input.shape)
    return spread.scatter_add(dim + 1, indices.expand_as(arrived), arrived)
