"""Sums of looked-up rows, written as a look-up and a sum: so that each row has a relevance of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

SUM, MEAN, LARGEST = 0, 1, 2
"""Modes of a bag."""


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = SUM,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:
    """Write a bag of equally many rows for each sample, as ``nn.EmbeddingBag`` makes of ``(B, L)``, in its two parts.

    Of a table ``(rows, D)``, indices ``(B L,)`` and offsets ``(B,)`` they make ``(B, D)``. Bags of unlike lengths, or
    with rows that are left out, stay whole.
    """
    length = _whole_number(indices.shape[0] // offsets.shape[0])
    if include_last_offset or padding_idx >= 0 or length < 2:
        return NotImplemented
    rows = aten.embedding(weight, indices.reshape(-1, length))
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, length, 1)
    bags = rows.amax(1) if mode == LARGEST else rows.sum(1) if mode == SUM else rows.mean(1)
    nothing = indices.new_empty(0)
    return bags, nothing, nothing, nothing


def _whole_number(size: int | torch.SymInt) -> int:
    """Return a size that is the same for any batch; zero where it is not."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else 0


BAGS = {aten._embedding_bag.default: embedding_bag, aten._embedding_bag_forward_only.default: embedding_bag}
