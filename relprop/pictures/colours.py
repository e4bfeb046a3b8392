"""From relevance to colours: robust scales, heat maps, overlays."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from relprop.errors import RelpropError

Array = NDArray[np.floating]
Pixels = NDArray[np.uint8]

PERCENTILE = 99.5
"""Where colours saturate: a few pixels of a relevance map dwarf all others."""

PALE = 0.35
"""Factor of a map whose colours mean little."""

BLUR = 0.012
"""How far an overlay joins neighbouring pixels, in picture widths."""

_STEPS = 128  # colours on either side of zero, which has one of its own
_COLOURS: Pixels = colormaps["RdBu_r"].resampled(2 * _STEPS + 1)(np.arange(2 * _STEPS + 1), bytes=True)[:, :3]
_STEP_COLOURS: Pixels = colormaps["cividis"](np.arange(256), bytes=True)[:, :3]
_OPAQUE = 0.92  # the opacity of the strongest relevance: the object stays visible under it
# The two colours of an overlay, equally far from any grey in CIELAB: a darker blue is lost in shadows.
_COLD, _WARM = np.array([[36, 110, 216], [192, 53, 56]], np.float32)


class DrawingError(RelpropError, ValueError):
    """A relevance map that cannot be drawn."""


def robust_scale(relevance: Array, percentile: float = PERCENTILE) -> tuple[NDArray[np.float64], Array]:
    """Scale maps to [-1, 1] by a percentile of their magnitudes, clipping what exceeds it.

    Parameters
    ----------
    relevance : ndarray
        One map (H, W) or a batch (B, H, W), each scaled by its own percentile.
    percentile : float
        In (0, 100]; 100 divides by the largest magnitude.

    Returns
    -------
    scaled, scale : ndarray
        The maps, and the magnitude that became 1, per map. Where the percentile is zero the largest
        magnitude takes its place; an all-zero map stays zero and has scale 0.

    Raises
    ------
    DrawingError
        If the relevance is of another shape, empty, or not finite.
    """
    if relevance.ndim not in (2, 3) or not relevance.size or not np.isfinite(relevance).all():
        raise DrawingError(f"cannot draw relevance {relevance.shape}: empty, not finite, or not (H, W) or (B, H, W)")
    magnitude = np.abs(relevance.astype(np.float64)).reshape(*relevance.shape[:-2], -1)
    scale = np.percentile(magnitude, percentile, axis=-1)
    scale = np.where(scale > 0, scale, magnitude.max(axis=-1))
    divisor = np.where(scale > 0, scale, 1.0)[..., None, None]
    return np.clip(relevance / divisor, -1.0, 1.0), scale


def scale_words(scale: float, percentile: float = PERCENTILE) -> str:
    """Write for a caption where the colours of a map saturate, as `robust_scale` found it."""
    return f"colours saturate at the {percentile:g}th percentile of |relevance|, {scale:.2g}"


def scale_note(scale: float) -> str:
    """Write below one of several maps what its 1 stands for."""
    return f"full colour = {scale:.2g}" if scale else "no relevance here"


def heat_colours(heat: Array) -> Pixels:
    """Colour a map (H, W) in [-1, 1]: blue below zero, white at it, red above; uint8 RGB (H, W, 3)."""
    steps = np.rint(np.clip(heat, -1.0, 1.0) * _STEPS).astype(np.intp) + _STEPS
    return np.asarray(np.take(_COLOURS, steps, axis=0), np.uint8)


def step_colours(steps: NDArray[np.generic], last: int) -> Pixels:
    """Colour when pixels are masked, ``(H, W)`` from 1 to last: dark at first, light for never; uint8 RGB (H, W, 3)."""
    levels = np.rint((np.clip(steps.astype(np.float64), 1, last) - 1) / (last - 1) * (len(_STEP_COLOURS) - 1))
    return np.asarray(np.take(_STEP_COLOURS, levels.astype(np.intp), axis=0), np.uint8)


def overlay(picture: Pixels, heat: Array, blur: float = BLUR) -> Pixels:
    """Lay a map over the greyed picture: sign as colour, magnitude as opacity; uint8 RGB (H, W, 3).

    Parameters
    ----------
    picture : ndarray
        uint8 RGB (H, W, 3).
    heat : ndarray
        A map in [-1, 1] of any spatial size, resized bilinearly to the picture's.
    blur : float
        Width of the Gaussian, as a fraction of the picture's width, that joins single pixels into
        regions the eye can find (peaks are restored, up to a hundredfold); 0 shows single pixels.
    """
    heat = resized(heat, picture.shape[:2], cv2.INTER_LINEAR)
    if blur > 0 and (peak := np.abs(heat).max()) > 0:
        smooth = np.asarray(cv2.GaussianBlur(heat, (0, 0), blur * picture.shape[1]), np.float32)
        heat = smooth * (peak / max(np.abs(smooth).max(), 0.01 * peak))
    return _blend(picture, heat)


def cell_overlay(picture: Pixels, heat: Array) -> Pixels:
    """Lay a coarse map (h, w) in [-1, 1] over the greyed picture (H, W, 3), its cells as they are."""
    cells = resized(heat, picture.shape[:2], cv2.INTER_NEAREST_EXACT)
    drawn = _blend(picture, cells)
    (height, width), (rows, columns) = picture.shape[:2], heat.shape
    if min(height / rows, width / columns) >= 8:  # narrower cells would be all lines
        for row in range(1, rows):
            drawn[round(row * height / rows)] = drawn[round(row * height / rows)] // 8 * 7 + 30
        for column in range(1, columns):
            drawn[:, round(column * width / columns)] = drawn[:, round(column * width / columns)] // 8 * 7 + 30
    return drawn


def resized(image: NDArray[np.generic], size: tuple[int, ...], interpolation: int) -> NDArray[np.float32]:
    """Bring a map (h, w) to a size (H, W), as float32."""
    values = image.astype(np.float32)
    if image.shape[:2] == tuple(size):
        return values
    return np.asarray(cv2.resize(values, (size[1], size[0]), interpolation=interpolation), np.float32)


def _blend(picture: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Mix the greyed picture (H, W, 3) with the colours of the two signs, by magnitude (H, W)."""
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)[..., None]
    grey = 70.0 + grey * np.float32(185.0 / 255.0)  # lifted, so that both colours stand out from shadows
    # Without a contrast hardly a pixel is without relevance: a steeper curve keeps that from tinting all of it.
    curve = np.float32(0.75 if (heat < 0).any() else 1.4)
    opacity = (_OPAQUE * np.abs(heat) ** curve)[..., None]
    colour = np.where((heat > 0)[..., None], _WARM, _COLD)
    return np.asarray(np.rint(grey + (colour - grey) * opacity), np.uint8)
