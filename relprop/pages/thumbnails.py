"""Pictures small enough to travel inside a page: WebP, as large as a budget of bytes allows."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from relprop.pictures import Pixels
from relprop.pictures.tiles import scaled, tile_size

SIDES = (448, 320, 224, 192, 160, 128, 96, 64)
"""Sides in pixels that thumbnails may have; a square's, other shapes have its area."""
QUALITY = 72
_LOSSLESS = 101
"""OpenCV's word for it: a quality above 100."""
_AS_TEXT = 4 / 3
"""Letters of base64 for a byte."""


def data_uri(picture: Pixels, *, lossless: bool = False) -> str:
    """Return a picture, uint8 RGB ``(H, W, 3)``, as the address of an image that a page holds itself."""
    quality = [cv2.IMWRITE_WEBP_QUALITY, _LOSSLESS if lossless else QUALITY]
    done, data = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    assert done, "OpenCV always carries WebP"
    return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"


def shrunk(picture: Pixels, side: int) -> Pixels:
    """Bring a picture ``(H, W, 3)`` to the area of a square of a side; a smaller one stays as it is."""
    size = tile_size(picture.shape[:2], side)
    return picture if size[0] >= picture.shape[0] else scaled(picture, size)


def choose_side(probe: Sequence[Pixels], count: int, budget: int, largest: int = SIDES[0]) -> int:
    """Return the largest side with which thumbnails of pictures ``(H, W, 3)`` stay within a budget.

    Parameters
    ----------
    probe : sequence of ndarray
        Some of the pictures, which the others are like.
    count : int
        How many pictures there will be.
    budget : int
        Bytes of the page for all of them.
    largest : int
        Side to begin with.

    Returns
    -------
    int
        One of `SIDES`; the smallest where even that is too large: see `fitting_count`.
    """
    for side in SIDES:
        if side <= largest and mean_letters(probe, side) * count <= budget:
            return side
    return SIDES[-1]


def mean_letters(probe: Sequence[Pixels], side: int) -> float:
    """Return how many bytes of a page a thumbnail of pictures ``(H, W, 3)`` takes on average."""
    return float(np.mean([len(data_uri(shrunk(picture, side))) for picture in probe])) if probe else 0.0
