"""Every plot of a file, written into one folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from relprop.analysis.plots.bars import draw_bars
from relprop.analysis.plots.best_worst import draw_extremes
from relprop.analysis.plots.curves import draw_curves
from relprop.analysis.plots.scatter import draw_scatter
from relprop.analysis.records import KEEP_MAPS, AnalysisError
from relprop.analysis.tables import plain
from relprop.files import OutputError
from relprop.pictures import write_png

if TYPE_CHECKING:
    from relprop.analysis.results import Results


_LONGEST = 200
"""Bytes of a method's name in that of a file, which may have 255."""


@dataclass(frozen=True)
class Plots:
    """Files of plots that were written.

    Parameters
    ----------
    files : tuple of str
        PNG files.
    remarks : tuple of str
        What was not drawn, or not whole, and why.
    """

    files: tuple[str, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*self.files, *self.remarks])

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return dict(plain(self))


def plot(
    results: Results,
    folder: str | PathLike[str],
    *,
    pictures: str | PathLike[str] | None = None,
    by: str = "gae",
    k: int = 5,
    seed: int = 0,
) -> Plots:
    """Write all plots of the samples and methods selected.

    They are ``bars.png``, ``scatter.png``, ``curves.png``, and for each method whose maps were kept
    ``best-worst.METHOD.png``.

    Parameters
    ----------
    results : Results
        A file of an evaluation, or a selection from it.
    folder : path
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
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
    summary = results.summary(seed=seed)
    files, remarks = [], []
    without: set[int] = set()
    for name, figure in (
        ("bars", draw_bars(summary, results.score_info[by])),
        ("scatter", draw_scatter(results, summary)),
        ("curves", draw_curves(results, summary)),
    ):
        files.append(folder / f"{name}.png")
        write_png(figure, files[-1])
    with_maps = [method.method for method in summary.methods if results.has_maps(method.method)]
    if not with_maps:
        remarks.append(f"best and worst samples are not drawn, as {results.path} holds no relevance maps: {KEEP_MAPS}")
    place = None if pictures is None else Path(pictures)
    for method in with_maps:
        scored = by in results[method].score_info
        sheet = draw_extremes(results, method, by, k, place) if scored else None
        if sheet is None:
            remarks.append(f"best and worst samples of {method} are not drawn: none has {by}")
            continue
        files.append(folder / f"best-worst.{_in_file_names(method)}.png")
        write_png(sheet.figure, files[-1])
        without |= sheet.without
    if without:
        remarks.append(
            f"{len(without)} of the best and worst samples are drawn without their pictures, which were not found: "
            'pass pictures="DIR" (--pictures DIR)'
        )
    return Plots(tuple(map(str, files)), tuple(remarks))


def _in_file_names(method: str) -> str:
    """Return a method's name as file systems take it, Windows' too, and another one for every method."""
    name = quote(method, safe=" +=,()")
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.sha256(method.encode()).hexdigest()[:8]}"
