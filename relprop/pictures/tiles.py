"""Sheets of tiles: pixels in aligned rows, words that fit, a legend and a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.transforms import Bbox, TransformedBbox

from relprop.files import written_whole
from relprop.pictures.colours import PALE, Array, Pixels, heat_colours, resized
from relprop.pictures.lettering import DPI, Style, fit

_EDGE, _GAP, _ROOM = 18, 14, 8  # pixels: around the sheet, between columns, between a row and the next
LONGEST = 2  # a tile is at most so many sides of a square one wide or high
_BAR, _BAR_WIDTH = 12, 440
_NARROW = 150  # a column has room for a few words, however narrow its tiles are


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a sheet.

    Parameters
    ----------
    image : ndarray
        uint8 RGB (H, W, 3), shown pixel by pixel.
    title : str
        Words above it; wrapped, and shortened in the middle, to fit.
    note : str
        Small words below it.
    """

    image: Pixels
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Legend:
    """What the ends of the colour bar stand for.

    Parameters
    ----------
    low, high : str
        Words at its ends.
    signed : bool
        Whether there are colours below zero; without, the bar starts at zero.
    pale : bool
        Whether its colours are pale, as those of the maps.
    """

    low: str
    high: str
    signed: bool = True
    pale: bool = False


CONTRAST = Legend("more for the others", "more for the class")
SIGNED = Legend("-1 negative", "positive +1")
PLAIN = Legend("0 no relevance", "most relevance 1", signed=False)


_HEAD, _NAME, _NOTE = Style(15, "#1a1a1a", bold=True), Style(9.5, "#1a1a1a"), Style(9, "#5c5c5c")
_CAUTION = Style(11, "#a33a00", bold=True)


def in_lines(items: Sequence[T], length: int) -> list[Sequence[T]]:
    """Break a sequence into lines of a length."""
    return [items[start : start + length] for start in range(0, len(items), length)]


def tile_size(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Size of a tile: the shape's aspect ratio and a square's area, but never too long."""
    height, width = shape
    scale = min(side / math.sqrt(height * width), LONGEST * side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def scaled(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Bring a picture (H, W, 3) to the size of a tile."""
    if picture.shape[:2] == size:
        return picture
    smaller = picture.shape[0] > size[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=method), np.uint8)


def sharp(heat: Array, size: tuple[int, int]) -> Array:
    """Bring a map (h, w) to the size of a tile, its pixels visible where they can be."""
    smaller = heat.shape[0] > size[0]
    return resized(heat, size, cv2.INTER_AREA if smaller else cv2.INTER_NEAREST_EXACT)


def legend_of(*heats: Array) -> Legend:
    """Name the ends of the colour bar by the signs in the maps, which don't show whether they are a contrast."""
    return SIGNED if any((heat < 0).any() for heat in heats) else PLAIN


def legend_ramp(legend: Legend, width: int) -> Pixels:
    """Draw the colour bar of a legend, (height, width, 3)."""
    ramp = np.linspace(-1.0 if legend.signed else 0.0, 1.0, width)[None].repeat(_BAR, 0)
    return heat_colours(ramp * PALE if legend.pale else ramp)


class _Whole(BboxImage):
    """An image that fills its figure, and is handed on as it is where the figure has the image's size."""

    def make_image(self, renderer: RendererBase, magnification: float = 1.0, unsampled: bool = False) -> Any:
        """Resample only where a figure was scaled, which takes longer than all other drawing."""
        box, pixels = self.get_window_extent(renderer), np.asarray(self.get_array())
        if magnification == 1 and (round(box.height), round(box.width)) == pixels.shape[:2]:
            return pixels[::-1], box.x0, box.y0, None
        return super().make_image(renderer, magnification, unsampled)


class Drawing(Figure):
    """A figure that shows itself in a notebook, with or without pyplot's inline mode."""

    def _repr_png_(self) -> bytes:
        return encode(self)


def tile_sheet(
    rows: Sequence[Sequence[Tile | None]],
    caption: str = "",
    title: str = "",
    *,
    legend: Legend | None = CONTRAST,
    legend_column: int = 0,
    caution: str = "",
) -> Figure:
    """Draw rows of tiles, their columns aligned.

    Parameters
    ----------
    rows : sequence of sequence of Tile or None
        None leaves a place empty, and a row of no tiles a gap between its neighbours.
    caption : str
        Small words at the bottom, wrapped.
    title : str
        Large words at the top.
    legend : Legend, optional
        Words of the colour bar; None where no relevance is shown.
    legend_column : int
        Under which column the colour bar stands.
    caution : str
        What keeps the maps from being misread, above all else.
    """
    sheet = _Sheet(_columns(rows), legend is not None)
    sheet.write(caution, _CAUTION, lines=3)
    sheet.write(title, _HEAD, lines=2)
    for row in rows:
        sheet.place(row)
    if legend is not None:
        sheet.explain(legend, legend_column)
    sheet.write(caption, _NOTE, lines=8)
    return sheet.figure()


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG: the whole file or none, even when interrupted.

    Raises
    ------
    OutputError
        The folder is missing or cannot be written.
    """
    with written_whole(path) as part:
        part.write_bytes(encode(figure))


def encode(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    # Photographs hardly shrink further at higher levels, and every second row of an enlarged map repeats its first.
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGR), quick)
    assert done
    return data.tobytes()


def _columns(rows: Sequence[Sequence[Tile | None]]) -> list[int]:
    """Width of each column: of its widest tile, and enough for a few words."""
    count = max(map(len, rows))
    tiles = [[row[k] for row in rows if k < len(row)] for k in range(count)]
    return [max([_NARROW, *(tile.image.shape[1] for tile in column if tile)]) for column in tiles]


@dataclass
class _Sheet:
    """A sheet that is filled from top to bottom."""

    columns: list[int]
    has_legend: bool
    y: int = _EDGE
    images: list[tuple[int, int, Pixels]] = field(default_factory=list)
    words: list[tuple[int, int, str, Style, str]] = field(default_factory=list)

    @property
    def inner(self) -> int:
        return max(sum(self.columns) + _GAP * (len(self.columns) - 1), _BAR_WIDTH if self.has_legend else 0)

    def left(self, column: int) -> int:
        return _EDGE + sum(self.columns[:column]) + _GAP * column

    def write(self, text: str, style: Style, lines: int) -> None:
        """Write words over the whole width."""
        if text:
            self._words(_EDGE, fit(text, self.inner, style, lines), style)
            self.y += _ROOM // 2

    def place(self, row: Sequence[Tile | None]) -> None:
        """Place a row: titles, tiles, notes."""
        tiles = {column: tile for column, tile in enumerate(row) if tile is not None}
        self._labels({column: tile.title for column, tile in tiles.items()}, _NAME)
        for column, tile in tiles.items():
            self.images.append((self.left(column), self.y, tile.image))
        self.y += max((tile.image.shape[0] for tile in tiles.values()), default=0) + _ROOM // 2
        self._labels({column: tile.note for column, tile in tiles.items()}, _NOTE)
        self.y += _ROOM

    def explain(self, legend: Legend, column: int) -> None:
        """Place the colour bar with its words."""
        width = max(self.columns[column], _BAR_WIDTH)
        left = min(self.left(column), _EDGE + self.inner - width)
        self.images.append((left, self.y, legend_ramp(legend, width)))
        self.y += _BAR + 2
        ends = [(left, legend.low, "left"), (left + width, legend.high, "right")]
        fitted = [(x, fit(text, width // 2 - _GAP, _NOTE, 2), side) for x, text, side in ends]
        fitted += [(left + width // 2, ["0"], "center")] if legend.signed else []
        for x, lines, side in fitted:
            self.words += [(x, self.y + k * _NOTE.line, line, _NOTE, side) for k, line in enumerate(lines)]
        self.y += max(len(lines) for _, lines, _ in fitted) * _NOTE.line + _ROOM // 2

    def figure(self) -> Figure:
        """Draw all of it: the pixels as one image, the words as text."""
        width, height = self.inner + 2 * _EDGE, self.y + _EDGE // 2
        canvas = np.full((height, width, 3), 255, np.uint8)
        for x, y, image in self.images:
            high, wide = image.shape[:2]
            canvas[y - 1 : y + high + 1, x - 1 : x + wide + 1] = 200  # a thin frame: maps are mostly white
            canvas[y : y + high, x : x + wide] = image
        figure = Drawing(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        # In figure coordinates, as a notebook crops figures and moves what is in them.
        whole = _Whole(TransformedBbox(Bbox.unit(), figure.transFigure), interpolation="nearest")
        whole.set_data(cv2.cvtColor(canvas, cv2.COLOR_RGB2RGBA))
        figure.add_artist(whole)
        for x, y, text, style, side in self.words:
            figure.text(
                x / width,
                1 - (y + style.ascent) / height,
                text,
                fontproperties=style.font,
                color=style.colour,
                ha=side,
                va="baseline",
                parse_math=False,
            )
        return figure

    def _labels(self, texts: dict[int, str], style: Style) -> None:
        """Write words above or below the tiles of a row, the last lines level."""
        fitted = {column: fit(text, self.columns[column], style, 2) for column, text in texts.items() if text}
        top, lines = self.y, max(map(len, fitted.values()), default=0)
        for column, words in fitted.items():
            self.y = top + (lines - len(words)) * style.line if style is _NAME else top
            self._words(self.left(column), words, style)
        self.y = top + lines * style.line + (_ROOM // 2 if lines else 0)

    def _words(self, x: int, lines: Sequence[str], style: Style) -> None:
        self.words += [(x, self.y + k * style.line, line, style, "left") for k, line in enumerate(lines)]
        self.y += len(lines) * style.line
