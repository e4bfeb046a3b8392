"""Drawings of sources that are not pictures, and of several sources beside one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from relprop.errors import RelpropError
from relprop.explanation.grids import LayoutError
from relprop.explanation.maps import Maps
from relprop.pictures.colours import Array, Pixels, heat_colours, overlay, robust_scale, scale_note
from relprop.pictures.shapes import bars, signals, slices, spectrogram
from relprop.pictures.tiles import Legend, Tile, scaled, sharp, tile_sheet, tile_size

LEADS = 16
"""Rows ``(B, rows, time)`` up to which each is drawn as a line of its own."""
_WIDE, _MAP = (220, 520), 300
_BARS = 110
"""Height of bars."""


def is_picture(explanation: Maps) -> bool:
    """Whether there is one source, and it is a picture."""
    return len(explanation.relevances) == 1 and explanation.relevance.ndim == 4


def draw_sources(
    explanation: Maps,
    pictures: Pixels | None,
    given: Tensor | None,
    titles: Sequence[str],
    caption: str,
    legend: Legend,
    caution: str,
) -> Figure:
    """Draw a row for each sample: each of its sources as its shape asks for.

    Parameters
    ----------
    explanation : Maps
        The maps.
    pictures : ndarray, optional
        Pictures to draw a map over, ``(B, H, W, 3)``.
    given : Tensor, optional
        Signals ``(B, leads, time)``, drawn as lines.
    titles : sequence of str
        A name for each sample.
    caption, legend, caution
        Of the sheet.

    Raises
    ------
    LayoutError
        If there is no drawing for the shape of a source.
    """
    rows = []
    drawn = [_tiles(explanation, name, pictures, given) for name in explanation.relevances]
    several = len(explanation.relevances) > 1
    for k, title in enumerate(titles):
        names = list(explanation.relevances) if several else [""]
        row = [Tile(tiles[k].image, name, tiles[k].note) for name, tiles in zip(names, drawn, strict=True)]
        row[0] = Tile(row[0].image, f"{title}   {row[0].title}".rstrip(), row[0].note)
        rows.append(row)
    return tile_sheet(rows, caption, legend=legend, caution=caution)


def _tiles(explanation: Maps, name: str, pictures: Pixels | None, given: Tensor | None) -> list[Tile]:
    """Draw one source of every sample, over pictures ``(B, H, W, 3)`` or with signals ``(B, leads, time)``."""
    value = explanation.relevances[name]
    mark = explanation.axes.get(name)
    if mark is not None and (mark.merged or mark.axis):
        raise LayoutError(f"the samples of {name!r} do not lie along its first axis: {tuple(value.shape)}")
    if value.ndim == 4 or value.ndim == 5:
        value = value.sum(explanation.picture_axis(name) if value.ndim == 4 else 1)
    kind = {1: "bars", 2: "bars", 3: "rows", 4: "volume"}.get(value.ndim)
    if explanation.relevances[name].ndim == 4:
        kind = "map"
    if kind is None:
        raise LayoutError(f"there is no drawing for a source of the shape {tuple(value.shape)}")
    array: Array = value.detach().cpu().double().numpy()
    flat, scales = robust_scale(array.reshape(len(array), 1, -1))
    heats = flat.reshape(array.shape)
    lines = None if given is None or kind != "rows" else _signals(given, array.shape)
    found = []
    for k, heat in enumerate(heats):
        image, words = _image(
            kind, heat, None if pictures is None else pictures[k], None if lines is None else lines[k]
        )
        found.append(Tile(image, note=", ".join(filter(None, [words, scale_note(float(scales[k]))]))))
    return found


def _image(kind: str, heat: Array, picture: Pixels | None, line: Array | None) -> tuple[Pixels, str]:
    """Draw one sample of one to three axes as pixels ``(h, w, 3)``, and say in words what its axes are."""
    if kind == "bars":
        heat = heat.reshape(-1)
        return bars(heat, (_BARS, int(min(max(24 * len(heat), 60), 520)))), ""
    if kind == "rows" and (len(heat) <= LEADS or line is not None):
        return signals(
            heat, (max(60 * len(heat), 120), _WIDE[1]), line
        ), f"time from left to right, 0 to {heat.shape[1] - 1}"
    if kind == "rows":
        return spectrogram(heat, _WIDE), f"low bands below, time from left to right, 0 to {heat.shape[1] - 1}"
    if kind == "volume":
        image, chosen = slices(heat, (420, 560))
        return image, f"slices {', '.join(map(str, chosen))} of {len(heat)}"
    size = tile_size(heat.shape if picture is None else picture.shape[:2], _MAP)
    return (heat_colours(sharp(heat, size)) if picture is None else scaled(overlay(picture, heat), size)), ""


def _signals(given: Tensor, shape: tuple[int, ...]) -> Array:
    """Return signals ``(B, leads, time)`` as an array, if they are shaped like their source."""
    if tuple(given.shape) != shape:
        raise RelpropError(f"signals to draw must be shaped like the source, {shape}, not {tuple(given.shape)}")
    found: Array = np.asarray(given.detach().cpu().double().numpy())
    return found
