"""Sheets of many maps: of classes, of layers, of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from relprop.pictures.colours import Array, Pixels, cell_overlay, heat_colours, overlay
from relprop.pictures.tiles import Legend, Tile, in_lines, legend_of, scaled, sharp, tile_sheet, tile_size

_CLASS, _LAYER = 300, 208  # side of a square tile in pixels, per kind of picture
_COARSE = 0.4  # maps of fewer cells than this part of the tile's pixels are shown cell by cell


def class_sheet(
    picture: Pixels,
    heats: Array | Sequence[Array],
    titles: Sequence[str],
    caption: str = "",
    title: str = "",
    *,
    columns: int = 5,
    notes: Sequence[str] = (),
    legend: Legend | None = None,
    caution: str = "",
) -> Figure:
    """Draw one picture and what speaks for each of several classes: overlays, and below them the maps.

    Parameters
    ----------
    picture : ndarray
        uint8 RGB (H, W, 3).
    heats : ndarray
        One map in [-1, 1] per class, (K, h, w).
    titles : sequence of str
        K names.
    caption, title : str
        Words below and above.
    columns : int
        Classes side by side; further ones follow below.
    notes : sequence of str
        K words below the maps, see `scale_note`.
    legend, caution
        As in `panel`.
    """
    size = tile_size(picture.shape[:2], _CLASS)
    shown: Tile | None = Tile(scaled(picture, size), "what the model sees")
    rows: list[list[Tile | None]] = []
    for line in in_lines(list(zip(heats, titles, notes or [""] * len(heats), strict=True)), columns):
        rows.append([shown, *(Tile(scaled(overlay(picture, heat), size), name) for heat, name, _ in line)])
        rows.append([None, *(Tile(heat_colours(sharp(heat, size)), note=note) for heat, _, note in line)])
        shown = None
    return tile_sheet(rows, caption, title, legend=legend or legend_of(*heats), legend_column=1, caution=caution)


def layer_sheet(
    pictures: Pixels | None,
    titles: Sequence[str],
    rows: Sequence[Mapping[str, Array]],
    caption: str = "",
    title: str = "",
    *,
    columns: int = 7,
    notes: Sequence[Mapping[str, str]] = (),
    legend: Legend | None = None,
    caution: str = "",
) -> Figure:
    """Draw one row per target: its maps at the input and at layers, over the picture.

    Parameters
    ----------
    pictures : ndarray, optional
        One uint8 RGB picture (H, W, 3), or one per row (R, H, W, 3). Without, maps are drawn alone.
    titles : sequence of str
        R names of targets, above the first map of each row.
    rows : sequence of mapping of str to ndarray
        R mappings from a layer's name to its map (h, w) in [-1, 1]. Coarse maps are drawn cell by cell.
    caption, title : str
        Words below and above.
    columns : int
        Maps side by side; longer rows go on below, indented.
    notes : sequence of mapping of str to str
        R mappings from layers to words below their maps, see `scale_note`.
    legend, caution
        As in `panel`.
    """
    lines: list[list[Tile | None]] = []
    for k, (name, maps) in enumerate(zip(titles, rows, strict=True)):
        picture = pictures if pictures is None or pictures.ndim == 3 else pictures[k]
        first, *others = (
            Tile(_over(picture, heat), layer, notes[k].get(layer, "") if notes else "") for layer, heat in maps.items()
        )
        first = Tile(first.image, name, f"{first.title}   {first.note}".rstrip())
        indent: Tile | None = first
        count = -(-len(others) // (columns - 1)) or 1
        for line in in_lines(others, -(-len(others) // count) or 1) or [[]]:  # of even lengths
            lines.append([indent, *line])
            indent = None
        lines.append([])
    heats = [heat for maps in rows for heat in maps.values()]
    return tile_sheet(lines[:-1], caption, title, legend=legend or legend_of(*heats), caution=caution)


def map_sheet(
    pictures: Pixels | None,
    heats: Array,
    titles: Sequence[str],
    caption: str = "",
    *,
    columns: int = 4,
    notes: Sequence[str] = (),
    legend: Legend | None = None,
    caution: str = "",
) -> Figure:
    """Draw the maps of a batch side by side, over their pictures where those are given.

    Parameters
    ----------
    pictures : ndarray, optional
        uint8 RGB (B, H, W, 3).
    heats : ndarray
        Maps (B, h, w) in [-1, 1].
    titles, notes : sequence of str
        Words above and below each.
    caption : str
        Words at the bottom.
    columns : int
        Maps in a row.
    legend, caution
        As in `panel`.
    """
    size = tile_size(heats.shape[1:] if pictures is None else pictures.shape[1:3], _CLASS)
    images = (
        heat_colours(sharp(heat, size)) if pictures is None else scaled(overlay(pictures[k], heat), size)
        for k, heat in enumerate(heats)
    )
    tiles = [
        Tile(image, title, note) for image, title, note in zip(images, titles, notes or [""] * len(heats), strict=True)
    ]
    return tile_sheet(in_lines(tiles, columns), caption, legend=legend or legend_of(heats), caution=caution)


def _over(picture: Pixels | None, heat: Array) -> Pixels:
    """Draw a layer's map (h, w): cell by cell where it is coarse, smoothed over the picture where it is fine."""
    size = tile_size(heat.shape if picture is None else picture.shape[:2], _LAYER)
    if picture is None:
        return heat_colours(sharp(heat, size))
    if heat.shape[0] < _COARSE * size[0]:
        return cell_overlay(scaled(picture, size), heat)
    return scaled(overlay(picture, heat), size)
