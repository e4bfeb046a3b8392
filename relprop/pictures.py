"""Drawing relevance: colours, overlays and panels. Nothing here knows a model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from relprop.errors import RelpropError
from relprop.files import written_whole

Array = NDArray[np.floating]
Pixels = NDArray[np.uint8]

PERCENTILE = 99.5
"""Where colours saturate: a few pixels of a relevance map dwarf all others."""

BLUR = 0.012
"""How far an overlay joins neighbouring pixels, in picture widths."""

_COLOURS = colormaps["RdBu_r"].resampled(257)  # an odd number of colours: zero has one of its own
_INK, _FAINT = "#1a1a1a", "#5c5c5c"
_TILE, _GAP, _EDGE, _HEAD, _FOOT = 3.2, 0.10, 0.12, 0.42, 0.58  # inches
_OPAQUE = 0.92  # the opacity of the strongest relevance: the object stays visible under it


class DrawingError(RelpropError, ValueError):
    """A relevance map that cannot be drawn."""


def robust_scale(relevance: Array, percentile: float = PERCENTILE) -> tuple[NDArray[np.float64], Array]:
    """Scale maps to [-1, 1] by a percentile of their magnitudes, clipping what exceeds it.

    Parameters
    ----------
    relevance
        One map (H, W) or a batch (B, H, W), each scaled by its own percentile.
    percentile
        In (0, 100]; 100 divides by the largest magnitude.

    Returns
    -------
    scaled, scale
        The maps, and the magnitude that became 1, per map. Where the percentile is zero the largest
        magnitude takes its place; an all-zero map stays zero and has scale 0.
    """
    if relevance.ndim not in (2, 3) or not np.isfinite(relevance).all():
        raise DrawingError(f"cannot draw relevance {relevance.shape}: not finite, or not (H, W) or (B, H, W)")
    magnitude = np.abs(relevance.astype(np.float64)).reshape(*relevance.shape[:-2], -1)
    scale = np.percentile(magnitude, percentile, axis=-1)
    scale = np.where(scale > 0, scale, magnitude.max(axis=-1))
    divisor = np.where(scale > 0, scale, 1.0)[..., None, None]
    return np.clip(relevance / divisor, -1.0, 1.0), scale


def heat_colours(heat: Array) -> Pixels:
    """Colour a map (H, W) in [-1, 1]: blue below zero, white at it, red above; uint8 RGB."""
    rgb = _COLOURS((heat.astype(np.float64) + 1.0) / 2.0, bytes=True)
    return np.asarray(rgb, np.uint8)[..., :3]


def overlay(picture: Pixels, heat: Array, blur: float = BLUR) -> Pixels:
    """Lay a map over the greyed picture: sign as colour, magnitude as opacity; uint8 RGB.

    Parameters
    ----------
    picture
        uint8 RGB (H, W, 3).
    heat
        A map in [-1, 1] of any spatial size, resized to the picture's.
    blur
        Width of the Gaussian, as a fraction of the picture's width, that joins single pixels into
        regions the eye can find (peaks are restored, up to a hundredfold); 0 shows single pixels.
    """
    heat = _resized(heat, picture)
    if blur > 0 and (peak := np.abs(heat).max()) > 0:
        smooth = cv2.GaussianBlur(heat.astype(np.float64), (0, 0), blur * picture.shape[1])
        heat = np.asarray(smooth * (peak / max(np.abs(smooth).max(), 0.01 * peak)), np.float64)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)[..., None]
    grey = 70.0 + grey * (185.0 / 255.0)  # lifted, so that both colours stand out from shadows
    opacity = _OPAQUE * (np.abs(heat) ** 0.75)[..., None]
    colour = heat_colours(np.sign(heat) * 0.72).astype(np.float64)
    return np.rint(grey * (1.0 - opacity) + colour * opacity).astype(np.uint8)


def panel(picture: Pixels, heat: Array, title: str, caption: str) -> Figure:
    """Draw picture, heat map with its colour bar, and overlay side by side.

    Parameters
    ----------
    picture
        uint8 RGB (H, W, 3).
    heat
        A map in [-1, 1] of any spatial size, as `robust_scale` makes it.
    title
        The class and its probability.
    caption
        One small line: what the map is and where its colours saturate.
    """
    height, width = picture.shape[:2]
    tall = _TILE * min(height / width, 2.0)
    wide = tall * width / height
    size = (2 * _EDGE + 3 * wide + 2 * _GAP, _HEAD + tall + _FOOT)
    figure = Figure(figsize=size, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)

    def axes(left: float, bottom: float, w: float, h: float) -> Axes:
        return figure.add_axes((left / size[0], bottom / size[1], w / size[0], h / size[1]))

    columns = {
        "picture": picture,
        "": heat_colours(_resized(heat, picture)),
        "smoothed, over the picture": overlay(picture, heat),
    }
    for column, (note, image) in enumerate(columns.items()):
        tile = axes(_EDGE + column * (wide + _GAP), _FOOT, wide, tall)
        tile.imshow(image, interpolation="nearest", aspect="auto")
        tile.set(xticks=[], yticks=[])
        tile.set_xlabel(note, loc="left", fontsize=8, color=_FAINT)
        for spine in tile.spines.values():
            spine.set(color="#c8c8c8", linewidth=0.6)
    bar = axes(_EDGE + wide + _GAP, _FOOT - 0.14, wide, 0.09)
    figure.colorbar(ScalarMappable(Normalize(-1, 1), _COLOURS), cax=bar, orientation="horizontal")
    bar.set_xticks([-1, 0, 1], ["-1 more of the others", "0", "more of this class +1"], fontsize=8, color=_FAINT)
    bar.tick_params(length=2, pad=1.5, color=_FAINT)
    bar.get_xticklabels()[0].set_horizontalalignment("left")
    bar.get_xticklabels()[-1].set_horizontalalignment("right")
    bar.spines[:].set(visible=False)
    x, y = _EDGE / size[0], 1 - _HEAD / 2 / size[1]
    figure.text(x, y, title, fontsize=13, fontweight="bold", color=_INK, va="center", parse_math=False)
    figure.text(x, 0.06 / size[1], caption, fontsize=8, color=_FAINT, va="bottom", parse_math=False)
    return figure


def save_panel(path: Path, picture: Pixels, heat: Array, title: str, caption: str) -> None:
    """Write a `panel` as PNG: the whole file or none, even when interrupted.

    Raises
    ------
    OutputError
        The folder is missing or cannot be written.
    """
    figure = panel(picture, heat, title, caption)
    with written_whole(path) as part:
        figure.savefig(part, format="png")


def sheet(heats: Array, pictures: Pixels | None = None, columns: int = 4) -> Figure:
    """Draw the maps of a batch side by side, over their pictures where those are given.

    Parameters
    ----------
    heats
        Maps (B, H, W), scaled here by a percentile of their magnitudes, see `robust_scale`.
    pictures
        uint8 RGB (B, H, W, 3).
    columns
        Maps in a row.
    """
    scaled, _ = robust_scale(heats)
    columns = min(columns, len(heats))
    rows = -(-len(heats) // columns)
    height, width = (heats if pictures is None else pictures).shape[1:3]
    figure = Figure(figsize=(columns * _TILE, rows * _TILE * height / width), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for k, heat in enumerate(scaled):
        tile = figure.add_subplot(rows, columns, k + 1)
        tile.imshow(heat_colours(heat) if pictures is None else overlay(pictures[k], heat), interpolation="nearest")
        tile.set_axis_off()
    return figure


def _resized(heat: Array, picture: Pixels) -> Array:
    """Bring a map to the picture's size, bilinearly."""
    height, width = picture.shape[:2]
    if heat.shape == (height, width):
        return heat
    resized = cv2.resize(heat.astype(np.float64), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float64)
