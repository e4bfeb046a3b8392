"""A plot of the pictures on which a method scores best and worst, with its maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from relprop.analysis.plots.data_pictures import as_seen, drawn_heat, find_picture
from relprop.analysis.records import Ranked
from relprop.analysis.reports.rankings import rank
from relprop.analysis.reports.summaries import HEADLINE
from relprop.pictures import (
    CONTRAST,
    PERCENTILE,
    PLAIN,
    SIGNED,
    Legend,
    Tile,
    heat_colours,
    overlay,
    tile_sheet,
)
from relprop.pictures.tiles import scaled, sharp, tile_size

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection

_SIDE = 224
_Row = list[Tile | None]


@dataclass(frozen=True, eq=False)
class Extremes:
    """A sheet of samples.

    Parameters
    ----------
    figure : Figure
        The sheet.
    without : frozenset of int
        The samples whose pictures were not found: their maps stand alone.
    """

    figure: Figure
    without: frozenset[int]


def draw_extremes(
    results: ScoredSelection, method: str, by: str = "gae", k: int = 5, pictures: Path | None = None
) -> Extremes | None:
    """Draw the k best samples of a method, and below them the k worst: picture, map over it, map.

    Parameters
    ----------
    results : ScoredSelection
        Whose maps of the method were kept.
    method, by : str
        Method and score.
    k : int
        Samples of each kind; fewer where there are not twice as many.
    pictures : Path, optional
        Folder of the data set's pictures; no others are read.

    Returns
    -------
    Extremes or None
        None where no sample has the score.

    Raises
    ------
    MissingMapsError
        If the maps were not kept.
    """
    chosen = results[method]
    ranked = int((~np.isnan(chosen.score(by))).sum())
    if not ranked:
        chosen[:0].relevance()  # missing maps are an error before anything is drawn
        return None
    best = rank(chosen, k, None, by, "best").entries
    worst = rank(chosen, min(k, ranked - len(best)), None, by, "worst").entries if ranked > len(best) else ()
    rows: list[_Row] = []
    found = _Found()
    for words, entries in (("best", best), ("worst", worst)):
        if entries:
            rows += [*_rows(chosen, entries, f"{words} by {HEADLINE.get(by, by)}", pictures, found), []]
    caption = (
        f"{method}: numbers above are {HEADLINE.get(by, by)}; colours saturate at the {PERCENTILE:g}th percentile of "
        "each map's |relevance|"
    )
    if found.missing:
        caption += f"\n{len(found.missing)} pictures were not found by their names: give the folder they are in"
    if found.whole:
        caption += f"\n{found.whole} pictures are shown whole: which part of them the model saw can't be told"
    title = f"{method}: best and worst samples" if worst else f"{method}: samples, best first"
    figure = tile_sheet(rows[:-1], caption, title, legend=_legend(chosen, found.negative))
    return Extremes(figure, frozenset(found.missing))


class _Found:
    """What became of the pictures of a sheet."""

    def __init__(self) -> None:
        self.missing: set[int] = set()
        self.whole = 0
        self.negative = False


def _rows(
    results: ScoredSelection, entries: tuple[Ranked, ...], words: str, folder: Path | None, found: _Found
) -> list[_Row]:
    """Return a row of pictures, one of maps over them, and one of maps, which alone is there without pictures."""
    preparation = (results.config.get("data") or {}).get("preparation")
    names = results.class_names
    above: _Row = []
    middle: _Row = []
    below: _Row = []
    for place, entry in enumerate(entries):
        heat = drawn_heat(results.select(samples=[entry.sample]).relevance()[0])
        found.negative |= bool((heat < 0).any())
        title = f"{words}: {entry.value:.3f}" if not place else f"{entry.value:.3f}"
        note = _class_words(entry, names)
        size = tile_size(heat.shape, _SIDE)
        map_tile = heat_colours(sharp(heat, size))
        picture = find_picture(entry.name, folder)
        if picture is None:
            found.missing.add(entry.sample)
            above.append(None)
            middle.append(None)
            below.append(Tile(map_tile, title, note))
            continue
        seen = as_seen(picture, preparation, heat.shape)
        if seen is None:
            found.whole += 1
            shown = scaled(picture, tile_size(picture.shape[:2], _SIDE))
            above.append(Tile(shown, title, note))
            middle.append(None)
        else:
            above.append(Tile(scaled(seen, size), title, note))
            middle.append(Tile(scaled(overlay(seen, heat), size)))
        below.append(Tile(map_tile))
    return [row for row in (above, middle, below) if any(row)]


def _class_words(entry: Ranked, names: tuple[str, ...]) -> str:
    """Say which class was explained, and which is right where that is another one."""
    target = names[entry.target] if 0 <= entry.target < len(names) else str(entry.target)
    if entry.label < 0 or entry.label == entry.target:
        return target
    return f"{target} (label: {names[entry.label] if entry.label < len(names) else entry.label})"


def _legend(results: ScoredSelection, negative: bool) -> Legend:
    contrast = results.method_config().get("contrast") in ("rest", "log-odds")
    return CONTRAST if negative and contrast else SIGNED if negative else PLAIN
