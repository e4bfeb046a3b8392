"""A scatter plot of each sample's local consistency against its contrastiveness, method by method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relprop.analysis.plots.style import (
    BLUE,
    FAINT,
    GREY,
    HALO,
    INK,
    LABEL,
    LINE,
    ORANGE,
    SMALL,
    figure,
    grid_of,
    inside,
    name_of,
    quiet,
    side_of,
    whiskers,
)
from relprop.analysis.records import Values
from relprop.analysis.reports.summaries import MethodSummary, Summary

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection

_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def draw_scatter(results: ScoredSelection, summary: Summary) -> Figure:
    """Draw a panel for each method: samples as points, their mean with its intervals, lines of equal GAE."""
    points = {
        method.method: (
            results.score("local_consistency", method.method),
            results.score("contrastiveness", method.method),
        )
        for method in summary.methods
    }
    largest = max((float(np.nanmax(v)) for pair in points.values() for v in pair if not np.isnan(v).all()), default=1)
    edge = min(max(math.ceil(largest * 5) / 5, 0.2), 1.0)
    rows, columns = grid_of(len(points))
    note = (
        f"a point is a sample; the cross is their mean with its {summary.confidence:.0%} interval; "
        "grey lines join points of equal GAE = LC * C, which is at their end; up and to the right is better."
    )
    side = side_of(columns)
    width = columns * (side + 0.35)
    shape = figure(width + 0.8, rows * (side + 0.45) + 1.75, "LC and C of every sample", note)
    panels = shape.subplots(
        rows,
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        gridspec_kw={"wspace": 0.15, "hspace": 0.22} | inside(shape, 0.6, 0.45, foot=1.25),
    )
    for axes, method in zip(panels.flat, summary.methods, strict=False):
        _draw_panel(axes, method, *points[method.method], edge)
    for k, axes in enumerate(panels.flat):
        axes.set_visible(k < len(points))
        if k % columns == 0:
            axes.set_ylabel("C", size=LABEL, color=INK, rotation=0, labelpad=10)
        if k + columns >= len(points):
            axes.set_xlabel("LC", size=LABEL, color=INK)
            axes.tick_params(labelbottom=True)
    return shape


def _draw_panel(axes: Axes, method: MethodSummary, consistency: Values, contrast: Values, edge: float) -> None:
    """Draw one method's samples by their scores, ``(N,)`` each."""
    both = ~(np.isnan(consistency) | np.isnan(contrast))
    colour = GREY if method.control else BLUE
    quiet(axes)
    margin = 0.04 * edge
    axes.set_xlim(-margin, edge + margin)
    axes.set_ylim(-margin, edge + margin)
    axes.set_box_aspect(1)
    ticks = [0, edge / 2, edge]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    for level in _LEVELS:
        if 0.03 * edge < level / edge < 0.95 * edge and not (level == 0.05 and edge > 0.5):
            x = np.linspace(level / edge, edge, 100)
            axes.plot(x, level / x, color=LINE, linewidth=0.8, zorder=1)
            axes.text(edge + margin, level / edge, f"{level:g}", size=6.5, color=FAINT, va="center", zorder=1)
    axes.scatter(
        consistency[both], contrast[both], s=16, color=colour, alpha=0.55, linewidths=0, zorder=2, clip_on=False
    )
    mean_x, mean_y = (method.scores[name].estimate for name in ("local_consistency", "contrastiveness"))
    if both.any():
        axes.errorbar(
            mean_x.mean,
            mean_y.mean,
            xerr=whiskers(mean_x),
            yerr=whiskers(mean_y),
            fmt="o",
            color=ORANGE,
            markersize=4,
            linewidth=2,
            zorder=4,
        )
    else:
        axes.text(edge / 2, edge / 2, "no scores", size=LABEL, color=FAINT, ha="center", va="center")
    title = name_of(method.title, axes.get_window_extent().width / axes.figure.dpi)
    axes.set_title(title, size=LABEL, color=FAINT if method.control else INK, loc="left", pad=6, parse_math=False)
    nothing = int((contrast[both] == 0).sum())
    if nothing:
        words = f"C = 0 on {nothing} of {int(both.sum())}"
        axes.text(edge, edge, words, size=SMALL - 1, color=FAINT, ha="right", va="top", zorder=6, path_effects=HALO)
