"""torchvision's crops from a pyramid of features, in a form that can be traced."""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def count_boxes(module: nn.Module) -> None:
    """Let every ``MultiScaleRoIAlign`` of a copy refuse boxes of more samples than there are.

    torchvision does not look: it reads what lies behind the features in memory.
    """
    for part in _poolers(module):
        part.forward = MethodType(_crop_of_samples, part)


def _crop_of_samples(pooler: Any, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
    """Return what ``MultiScaleRoIAlign.forward`` does, ``(boxes of all samples, C, h, w)``.

    Features are ``(B, C, H, W)`` by level, and boxes ``(boxes, 4)`` for each sample.

    Raises
    ------
    ValueError
        If there are boxes of more samples than there are features of.
    """
    if len(boxes) > (samples := len(next(iter(x.values())))):
        raise ValueError(f"MultiScaleRoIAlign: boxes of {len(boxes)} samples, and features of {samples}")
    crops: Tensor = type(pooler).forward(pooler, x, boxes, image_shapes)
    return crops


def write_out_levels(module: nn.Module) -> None:
    """Let every ``MultiScaleRoIAlign`` of a copy crop each box from all levels, and take the crop of its own level.

    torchvision sorts the boxes by their levels first. How many boxes a level has depends on values, and no graph can
    tell that.
    """
    for part in _poolers(module):
        part.forward = MethodType(_crop, part)


def _poolers(module: nn.Module) -> list[nn.Module]:
    loaded = sys.modules.get("torchvision.ops.poolers")  # else no module is one
    return [] if loaded is None else [part for part in module.modules() if isinstance(part, loaded.MultiScaleRoIAlign)]


def _crop(pooler: Any, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
    """Return the crops, ``(boxes of all samples, C, h, w)``, as ``MultiScaleRoIAlign.forward`` does."""
    poolers = sys.modules["torchvision.ops.poolers"]
    levels = [value for name, value in x.items() if name in pooler.featmap_names]
    if pooler.scales is None or pooler.map_levels is None:
        pooler.scales, pooler.map_levels = poolers._setup_scales(
            levels, image_shapes, pooler.canonical_scale, pooler.canonical_level
        )
    crops: list[Tensor] = [
        poolers.roi_align(level, boxes, pooler.output_size, scale, pooler.sampling_ratio)
        for level, scale in zip(levels, pooler.scales, strict=True)
    ]
    if len(crops) == 1:
        return crops[0]
    own = pooler.map_levels(boxes)[:, None, None, None]
    chosen = torch.zeros_like(crops[0])  # stays for a box that is no box, which has no level
    for number, crop in enumerate(crops):
        chosen = torch.where(own == number, crop, chosen)
    return chosen
