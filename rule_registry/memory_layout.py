"""Where the channels of an activation lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def layout(activation: Tensor) -> torch.memory_format:
    """Return whether the channels of an activation ``(B, C, ...)`` are first or last in the memory of a sample."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(activation.ndim)
    if last is None or activation.is_contiguous() or not activation.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last
