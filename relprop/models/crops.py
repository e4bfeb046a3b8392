"""Crops of a large photograph, which the model sees at a finer resolution than the whole, and their maps joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.errors import RelpropError
from relprop.models.classifier import Classifier
from relprop.models.preprocessing import Picture, apply, blank_input
from relprop.models.view import View, find_view

MOST = 64
"""Tiles of one photograph: of a larger one each is larger."""
SMALLEST = 16
"""Pixels of the photograph along the side of a crop."""


class CropError(RelpropError, ValueError):
    """Crops that can't be cut, or maps that are not those of the crops."""


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops of one photograph.

    Attributes
    ----------
    x
        What the model sees of each, ``(N, C, h, w)``.
    boxes
        Left, top, right and bottom edge of each that the model sees, in pixels of the photograph.
    size
        Width and height of the photograph.
    """

    x: Tensor
    boxes: tuple[tuple[float, float, float, float], ...]
    size: tuple[int, int]

    def join(self, maps: Tensor | NDArray[Any]) -> NDArray[np.float32]:
        """Join the maps of the crops at the photograph's size.

        Where crops overlap the mean is taken, in which a crop counts less towards its edges, so that no seams show.

        Parameters
        ----------
        maps : Tensor or ndarray (N, h, w)
            One for each crop, over what the model sees, of any resolution: as ``explanation.summed()``.

        Returns
        -------
        ndarray (H, W), float32
            In the unit of the maps.

        Raises
        ------
        CropError
            If there is not one map for each crop.
        """
        held = maps.detach().cpu().numpy() if isinstance(maps, Tensor) else np.asarray(maps)
        if held.ndim != 3 or len(held) != len(self.boxes):
            raise CropError(f"there are {len(self.boxes)} crops: maps (N, h, w) of these, not {held.shape}")
        width, height = self.size
        total, weight = np.zeros((height, width)), np.zeros((height, width))
        for heat, (left, top, right, bottom) in zip(held, self.boxes, strict=True):
            rows, columns = _inside(top, bottom, height), _inside(left, right, width)
            part = View(
                (columns.stop - columns.start, rows.stop - rows.start),
                (left - columns.start, top - rows.start, right - columns.start, bottom - rows.start),
            )
            share = np.outer(_share(rows, top, bottom), _share(columns, left, right))
            total[rows, columns] += share * part.on_original(heat)
            weight[rows, columns] += share
        return np.asarray(total / np.where(weight == 0, 1.0, weight), np.float32)


def cut_crops(classifier: Classifier, picture: Picture, crops: int | Literal["tiles"] = "tiles") -> Crops:
    """Cut square crops that overlap by half, so that the model sees all of a photograph.

    Parameters
    ----------
    classifier : Classifier
        Whose transform prepares each crop.
    picture : PIL picture or ndarray (H, W, C)
        As the classifier's transform takes it.
    crops : int or "tiles"
        How many along the shorter side; along the other one so many more as it is longer. ``"tiles"``: as many that
        the model sees each pixel of the photograph as one of its own, but at most `MOST` in all.

    Raises
    ------
    CropError
        If so many would be smaller than `SMALLEST` pixels, or the number is none.
    ViewError
        If the classifier's transform does more than to resize, crop and pad.
    TransformError
        If it fails.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from relprop.models import Classifier, cut_crops
    >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    >>> crops = cut_crops(Classifier.of(net), np.zeros((300, 600, 3), np.uint8), 2)
    >>> crops.x.shape, crops.join(crops.x.mean(1)).shape
    (torch.Size([10, 3, 224, 224]), (300, 600))
    """
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if crops == "tiles":
        seen = float(min(shorter, *blank_input(classifier.preprocessing).shape[1:]))
        while _count(height, seen) * _count(width, seen) > MOST:
            seen = min(shorter, seen * 1.1)
    else:
        if crops < 1:
            raise CropError(f"crops={crops}: it is the number of crops along the shorter side, or tiles")
        seen = 2 * shorter / (crops + 1)
    if seen < min(SMALLEST, shorter):
        raise CropError(
            f"{crops} crops along {shorter} pixels have {seen:.0f} each: fewer than {SMALLEST} show nothing"
        )
    side, box = _square(classifier, seen)
    lefts = _starts(_count(width, seen), width - (box[2] - box[0]))
    tops = _starts(_count(height, seen), height - (box[3] - box[1]))
    margin = side  # what a transform crops away of a crop may lie outside of the photograph
    padded = np.pad(pixels, [(margin, margin), (margin, margin), *[(0, 0)] * (pixels.ndim - 2)], "edge")
    prepared, boxes = [], []
    for top, left in product(tops, lefts):
        x, y = round(left - box[0]), round(top - box[1])
        corner_y, corner_x = y + margin, x + margin
        crop = padded[corner_y : corner_y + side, corner_x : corner_x + side]
        prepared.append(apply(classifier.transform, np.ascontiguousarray(crop), classifier.channels))
        boxes.append((x + box[0], y + box[1], x + box[2], y + box[3]))
    return Crops(torch.stack(prepared), tuple(boxes), (width, height))


def _square(classifier: Classifier, seen: float) -> tuple[int, tuple[float, float, float, float]]:
    """Return the side of a square of which a model sees so many pixels, and the box of these."""
    side = max(1, round(seen))
    left, _, right, _ = find_view(classifier.preprocessing, (side, side)).box
    side = max(1, round(side * seen / (right - left)))
    return side, find_view(classifier.preprocessing, (side, side)).box


def _count(length: int, seen: float) -> int:
    """Return how many crops along a side overlap by half or more."""
    return 1 if seen >= length else ceil(2 * length / seen - 1 - 1e-6)


def _starts(count: int, last: float) -> Sequence[float]:
    """Return where along a side its crops start, evenly spread."""
    return [last / 2] if count == 1 else [float(start) for start in np.linspace(0, last, count)]


def _inside(start: float, stop: float, length: int) -> slice:
    return slice(max(0, int(np.floor(start))), min(length, int(np.ceil(stop))))


def _share(pixels: slice, start: float, stop: float) -> NDArray[np.float64]:
    """Return how much a crop counts at each pixel along an axis, ``(pixels,)``: most in its middle, nothing outside."""
    middles = np.arange(pixels.start, pixels.stop) + 0.5
    return np.clip(np.minimum(middles - start, stop - middles) / (stop - start), 0.0, None) + np.where(
        (middles >= start) & (middles <= stop), 1e-3, 0.0
    )
