"""Every plot of a file, written into one folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from matplotlib.figure import Figure

from relprop.analysis.plots.bars import draw_bars
from relprop.analysis.plots.best_worst import draw_extremes
from relprop.analysis.plots.curves import draw_curves
from relprop.analysis.plots.scatter import draw_scatter
from relprop.analysis.records import KEEP_MAPS, AnalysisError
from relprop.analysis.reports.statistics import CONFIDENCE
from relprop.analysis.reports.summaries import summarise
from relprop.files import OutputError
from relprop.pictures import write_png
from relprop.pictures.tiles import encode
from relprop.printed import Printed, html_of, picture_html

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection


_LONGEST = 200
"""Bytes of a method's name in that of a file, which may have 255."""


@dataclass(frozen=True, repr=False)
class Plots(Printed):
    """The plots of an evaluation; a notebook shows them.

    Parameters
    ----------
    files : tuple of str
        PNG files that were written.
    remarks : tuple of str
        What was not drawn, or not whole, and why.
    figures : mapping of str to Figure
        By what their files are called, without the suffix.
    """

    files: tuple[str, ...]
    remarks: tuple[str, ...]
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def _blocks(self) -> list[str]:
        return [*(self.files or self.figures), *self.remarks]

    def _repr_html_(self) -> str:
        return html_of(self.remarks) + "".join(
            picture_html(encode(figure), name) for name, figure in self.figures.items()
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return {"files": list(self.files), "remarks": list(self.remarks)}


def plot(
    results: ScoredSelection,
    folder: str | PathLike[str] | None = None,
    *,
    pictures: str | PathLike[str] | None = None,
    by: str = "gae",
    k: int = 5,
    seed: int = 0,
) -> Plots:
    """Draw all plots of the samples and methods selected, and write them into a folder where one is given.

    They are ``bars.png``, ``scatter.png``, ``curves.png``, and for each method whose maps were kept
    ``best-worst.METHOD.png``.

    Parameters
    ----------
    results : ScoredSelection
        A file of an evaluation, or a selection from it.
    folder : path, optional
        Where they go; it is made if it is missing.
    pictures : path, optional
        Folder of the data set's pictures: names in the file lead to those below it, and nowhere else.
    by : str
        The score by which samples are best and worst; the bars show it, too.
    k : int
        How many best and worst samples are drawn.
    seed : int
        Of the bootstrap.

    Raises
    ------
    AnalysisError, UnknownMethodError
        If there is nothing to plot, or no such score.
    OutputError
        If the folder can't be written.
    """
    if not results.methods or not len(results):
        raise AnalysisError(f"{results.path} has no methods or no samples to plot")
    if by not in results.score_info:
        results.score(by, results.methods[0])  # raises, and tells the scores there are
    place = None if folder is None else _made(Path(folder))
    summary = summarise(results, CONFIDENCE, seed)
    drawn, remarks = {}, []
    without: set[int] = set()
    drawn["bars"] = draw_bars(summary, results.score_info[by])
    drawn["scatter"] = draw_scatter(results, summary)
    drawn["curves"] = draw_curves(results, summary)
    with_maps = [method.method for method in summary.methods if results.has_maps(method.method)]
    if not with_maps:
        remarks.append(f"best and worst samples are not drawn, as {results.path} holds no relevance maps: {KEEP_MAPS}")
    seen = None if pictures is None else Path(pictures)
    for method in with_maps:
        scored = by in results[method].score_info
        sheet = draw_extremes(results, method, by, k, seen) if scored else None
        if sheet is None:
            remarks.append(f"best and worst samples of {method} are not drawn: none has {by}")
            continue
        drawn[f"best-worst.{_in_file_names(method)}"] = sheet.figure
        without |= sheet.without
    if without:
        remarks.append(
            f"{len(without)} of the best and worst samples are drawn without their pictures, which were not found: "
            'pass pictures="DIR" (--pictures DIR)'
        )
    files = [] if place is None else [place / f"{name}.png" for name in drawn]
    for file, figure in zip(files, drawn.values(), strict=False):
        write_png(figure, file)
    return Plots(tuple(map(str, files)), tuple(remarks), drawn)


def _made(folder: Path) -> Path:
    """Make a folder where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder


def _in_file_names(method: str) -> str:
    """Return a method's name as file systems take it, Windows' too, and another one for every method."""
    name = quote(method, safe=" +=,()")
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.sha256(method.encode()).hexdigest()[:8]}"
