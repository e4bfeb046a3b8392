"""Interpolation at the positions of a grid: an average of the entries around each, whose weights are never negative.

The grid is held even where it is computed from the input, as in spatial transformers: it says where to look, and what
``x dz/dx`` of a position is depends on where somebody put the origin.

Relevance, and ``s`` in its place, is ``(S, *output)`` with the seeds in front; what an input gets is ``(S, *input)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call

aten = torch.ops.aten

SAMPLERS = (aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
"""The first is one of the other two."""
BICUBIC = 2
"""The mode of interpolation with weights of both signs."""


def sampled(call: Call) -> Tensor:
    """Return the activation that is sampled, ``(B, C, ...)``.

    Raises
    ------
    NotImplementedError
        If it is constant, or weights may be negative.
    """
    if not call.is_active("input"):
        raise NotImplementedError(
            f"{call.site.op} at {call.site.path!r} reads a constant where an activation says: its rule holds the grid, "
            "so that nothing is left to hand relevance to"
        )
    if call["interpolation_mode"] == BICUBIC:
        raise NotImplementedError(f"{call.site.op} at {call.site.path!r} is bicubic: its rule is for weights >= 0")
    x: Tensor = call["input"]
    return x


def pulled_times(call: Call, s: Tensor, x: Tensor) -> list[Tensor]:
    """Multiply the transposed sampling of s with x, ``(B, C, ...)``, for the input, and hand nothing to the grid."""
    pulled = _pulled(call, s) * x
    return [pulled if slot.name == "input" else s.new_zeros(len(s), *call["grid"].shape) for slot in call.site.active]


def _pulled(call: Call, s: Tensor) -> Tensor:
    """Transpose the sampling, with the seeds merged into the batch: to ``(S, B, C, ...)``."""
    x, grid = (call[name].expand(len(s), *call[name].shape).flatten(0, 1) for name in ("input", "grid"))
    modes = (call["interpolation_mode"], call["padding_mode"], call["align_corners"])
    backward = aten.grid_sampler_2d_backward if grid.shape[-1] == 2 else aten.grid_sampler_3d_backward
    found: Tensor = backward(s.flatten(0, 1), x, grid, *modes, [True, False])[0]
    pulled: Tensor = found.unflatten(0, (len(s), -1))
    return pulled
