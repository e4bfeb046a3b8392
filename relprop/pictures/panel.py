"""The panel of one map: what the model saw, its relevance, both together, and the whole original picture."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from matplotlib.figure import Figure

from relprop.pictures.colours import BLUR, Array, Pixels, heat_colours, overlay, resized
from relprop.pictures.tiles import LONGEST, Legend, Tile, legend_of, scaled, sharp, tile_sheet, tile_size

Box = tuple[float, float, float, float]
Original = tuple[Pixels, Array, Box]

_PANEL = 448  # side of a square tile in pixels


def panel(
    picture: Pixels,
    heat: Array,
    title: str,
    caption: str,
    original: Original | None = None,
    *,
    legend: Legend | None = None,
    caution: str = "",
) -> Figure:
    """Draw picture, heat map with its colour bar, and overlay side by side; then the whole original picture.

    Parameters
    ----------
    picture : ndarray
        What the model saw, uint8 RGB (H, W, 3).
    heat : ndarray
        A map in [-1, 1] of any spatial size, as `robust_scale` makes it.
    title : str
        The class and its probability.
    caption : str
        What the map is and where its colours saturate, see `scale_words`.
    original : tuple, optional
        The picture before it was resized and cropped, uint8 RGB (H0, W0, 3); the map over it, (H0, W0) in
        [-1, 1]; and the box (left, top, right, bottom), in its pixels, that the model saw. What lies outside of
        the box is veiled.
    legend : Legend, optional
        Words of the colour bar. The default does not distinguish a contrast from other maps with negative relevance.
    caution : str
        What keeps the map from being misread, above all else.
    """
    size = tile_size(picture.shape[:2], _PANEL)
    tiles = [
        Tile(scaled(picture, size), "what the model sees"),
        Tile(heat_colours(sharp(heat, size)), "its relevance"),
        Tile(scaled(overlay(picture, heat), size), "smoothed, over the picture"),
    ]
    if original is not None:
        tiles.append(Tile(_whole(*original, height=size[0]), "on the original (pale: cropped away)"))
    return tile_sheet([tiles], caption, title, legend=legend or legend_of(heat), legend_column=1, caution=caution)


def _whole(pixels: Pixels, heat: Array, box: Box, height: int) -> Pixels:
    """Draw a map (H0, W0) over the original picture, veil what lies outside of a box and outline the box."""
    scale = min(height / pixels.shape[0], LONGEST * height / pixels.shape[1])
    size = max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    # First small, then smooth: photographs of many megapixels would take long. Averaging lowers peaks.
    small = resized(heat, size, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    small = small * (np.abs(heat).max() / max(np.abs(small).max(), 1e-12))
    left, top, right, bottom = _corners(box, scale, size)
    drawn = overlay(scaled(pixels, size), small, BLUR * (right - left) / size[1])
    seen = drawn[top:bottom, left:right].copy()
    drawn = (drawn // 3 + 165).astype(np.uint8)
    drawn[top:bottom, left:right] = seen
    for inset, ink in ((1, 255), (0, 26)):  # dark and light, to be seen on any picture
        corner = (right - 1 - inset, bottom - 1 - inset)
        cv2.rectangle(drawn, (left + inset, top + inset), corner, (ink, ink, ink), 1)
    return drawn


def _corners(box: Box, scale: float, size: tuple[int, int]) -> Iterator[int]:
    """Bring a box to the scale of a tile and inside of it."""
    for corner, length in zip(box, size[::-1] * 2, strict=True):
        yield min(max(round(corner * scale), 0), length)
