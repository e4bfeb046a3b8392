"""Pictures of relevance that is not a picture itself: bars, signals, spectrograms, volumes."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from relprop.pictures.colours import Array, Pixels, heat_colours
from relprop.pictures.tiles import sharp

_INK, _FAINT = (26, 26, 26), (205, 205, 205)
_SLICES = 12
"""Slices of a volume that are drawn."""


def bars(values: Array, size: tuple[int, int]) -> Pixels:
    """Draw numbers in [-1, 1] as bars beside one another, up where they are positive.

    Parameters
    ----------
    values : ndarray
        ``(N,)``.
    size : (int, int)
        Height and width of the picture.
    """
    height, width = size
    drawn, middle = np.full((height, width, 3), 255, np.uint8), height // 2
    edges = np.linspace(0, width, len(values) + 1).round().astype(int)
    gap = 1 if width >= 4 * len(values) else 0
    for value, left, right in zip(values, edges, np.maximum(edges[1:], edges[:-1] + 1), strict=False):
        reach = round(abs(float(value)) * (middle - 2))
        top, bottom = (middle - reach, middle) if value > 0 else (middle, middle + reach)
        drawn[top:bottom, left + gap : max(right - gap, left + gap + 1)] = heat_colours(_strong(np.array([[value]])))[
            0, 0
        ]
    drawn[middle] = _INK
    return drawn


def signals(heat: Array, size: tuple[int, int], values: Array | None = None) -> Pixels:
    """Draw each lead as a line whose colour is its relevance; grey where there is none.

    Parameters
    ----------
    heat : ndarray
        ``(leads, time)`` in [-1, 1].
    size : (int, int)
        Height and width of the picture.
    values : ndarray, optional
        The signal itself, ``(leads, time)``. Without, the line is the relevance.
    """
    height, width = size
    drawn = np.full((height, width, 3), 255, np.uint8)
    curves, leads = heat if values is None else values, len(heat)
    band = height / leads
    for k, (curve, relevance) in enumerate(zip(curves, heat, strict=True)):
        middle = (k + 0.5) * band
        centred = curve if values is None else curve - (curve.max() + curve.min()) / 2
        scale = 0.45 * band / max(float(np.abs(centred).max()), 1e-12)
        x = np.linspace(1, width - 2, len(curve)) if len(curve) > 1 else np.array([1.0])
        points = np.stack([x, middle - centred * scale], 1)
        cv2.line(drawn, (0, round(middle)), (width - 1, round(middle)), _FAINT, 1)
        strongest = np.abs(np.stack([relevance[:-1], relevance[1:]])).argmax(0)
        colours = _on_grey(np.where(strongest == 0, relevance[:-1], relevance[1:]))
        for (a, b), colour in zip(pairwise(points), colours, strict=True):
            start, end = ((round(float(p[0]) * 8), round(float(p[1]) * 8)) for p in (a, b))
            cv2.line(drawn, start, end, tuple(map(int, colour)), 2, cv2.LINE_AA, shift=3)
    return drawn


def spectrogram(heat: Array, size: tuple[int, int]) -> Pixels:
    """Draw a map ``(bands, time)`` with low bands at the bottom, and ticks of the time axis below it."""
    drawn = heat_colours(sharp(heat[::-1], (size[0] - 5, size[1])))
    axis = np.full((5, size[1], 3), 255, np.uint8)
    axis[0] = _INK
    axis[:, np.linspace(0, size[1] - 1, 11).round().astype(int)] = _INK
    return np.concatenate([drawn, axis])


def slices(heat: Array, size: tuple[int, int]) -> tuple[Pixels, list[int]]:
    """Draw slices of a volume ``(D, H, W)`` in [-1, 1], row by row, and say which these are."""
    count = min(len(heat), _SLICES)
    chosen = np.linspace(0, len(heat) - 1, count).round().astype(int).tolist()
    columns = int(np.ceil(np.sqrt(count * heat.shape[1] / heat.shape[2] * size[1] / size[0])))
    columns = min(max(columns, 1), count)
    rows = -(-count // columns)
    cell = (max(1, (size[0] - 3 * (rows - 1)) // rows), max(1, (size[1] - 3 * (columns - 1)) // columns))
    side = min(cell[0] / heat.shape[1], cell[1] / heat.shape[2])
    cell = max(1, round(heat.shape[1] * side)), max(1, round(heat.shape[2] * side))
    drawn = np.full((rows * (cell[0] + 3) - 3, columns * (cell[1] + 3) - 3, 3), 200, np.uint8)
    for k, depth in enumerate(chosen):
        top, left = (k // columns) * (cell[0] + 3), (k % columns) * (cell[1] + 3)
        drawn[top : top + cell[0], left : left + cell[1]] = heat_colours(sharp(heat[depth], cell))
    return drawn, chosen


def _strong(heat: Array) -> Array:
    """Bring small magnitudes, in an array of any shape, to colours that are seen on white."""
    return np.sign(heat) * np.maximum(np.abs(heat), 0.35)


def _on_grey(heat: Array) -> Pixels:
    """Return the colours (N, 3) of a line of relevance: grey at zero, those of maps at their ends."""
    weight = np.abs(heat)[:, None]
    mixed = weight * heat_colours(np.sign(heat)[None])[0] + (1 - weight) * 175
    return np.asarray(mixed.round(), np.uint8)
