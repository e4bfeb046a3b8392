"""Batch norms that are one layer with the layer before: a linear map, then a gain and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.rewrite.step import widen

aten = torch.ops.aten


def merged(
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    groups: int | None,
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the one layer.

    Parameters
    ----------
    weight, bias : Tensor
        Of the layer.
    gain, shift, mean, variance, eps
        Of the batch norm.
    groups : int or None
        Of a transposed convolution, whose weight has its outputs, group by group, in its second axis.
    """
    scale = torch.rsqrt(widen(variance) + eps)
    if gain is not None:
        scale = scale * widen(gain)
    offset = -widen(mean) if bias is None else widen(bias) - widen(mean)
    offset = offset * scale
    if shift is not None:
        offset = offset + widen(shift)
    weight = widen(weight)
    if groups is None:
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), offset
    parts = weight.unflatten(0, (groups, -1))
    return (parts * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))).flatten(0, 1), offset
