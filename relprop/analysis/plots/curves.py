"""Curves of what masking does: to the model's output, and to the maps of each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from relprop.analysis.plots.style import (
    BLUE,
    FAINT,
    INK,
    LABEL,
    LINE,
    ORANGE,
    figure,
    grid_of,
    inside,
    name_of,
    quiet,
    side_of,
)
from relprop.analysis.records import Values
from relprop.analysis.reports.summaries import Summary
from relprop.extras import extra

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection

_LOOKS = {"MoRF": (ORANGE, "-"), "LeRF": (BLUE, (0, (5, 2)))}


def draw_curves(results: ScoredSelection, summary: Summary) -> Figure:
    """Draw the target's probability while masking, and how much each method's map changes by it."""
    rows, columns = grid_of(len(summary.methods) + 1)
    note = (
        f"mean over samples, band: its {summary.confidence:.0%} interval (t). MoRF masks the pixels first that matter "
        "most to the model, LeRF those that matter least. Change of a map: D in [0, 1] to the map of the unmasked "
        "picture; a robust method's map changes as the output does: soon under MoRF, late under LeRF."
    )
    side = side_of(columns)
    shape = figure(columns * (side + 0.35) + 0.75, rows * (side * 0.8 + 0.65) + 1.7, "Masking: model and maps", note)
    panels = shape.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={"wspace": 0.22, "hspace": 0.42} | inside(shape, 0.55, 0.3, foot=1.3),
    )
    first, *others = panels.flat
    _draw_panel(first, results.probability(), np.arange(10) * 10, summary.confidence, "model: probability of target")
    for axes, method in zip(others, summary.methods, strict=False):
        changes = results.map_change(method.method)
        changes = np.concatenate([np.where(np.isnan(changes[..., :1]), np.nan, 0.0), changes], axis=-1)
        _draw_panel(axes, changes, np.arange(10) * 10, summary.confidence, f"map: {method.title}")
    for k, axes in enumerate(panels.flat):
        axes.set_visible(k <= len(summary.methods))
        if k + columns > len(summary.methods):
            axes.set_xlabel("% of pixels masked", size=LABEL, color=INK)
    handles, names = first.get_legend_handles_labels()
    shape.legend(handles, names, loc="upper right", ncols=2, frameon=False, fontsize=LABEL, bbox_to_anchor=(1.0, 1.0))
    return shape


def _draw_panel(axes: Axes, values: Values, percent: NDArray[np.int64], confidence: float, title: str) -> None:
    """Draw both orders of ``(N, 2, states)``."""
    with extra("analysis", "a band"):
        from scipy import stats
    quiet(axes)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    complete = values[~np.isnan(values).any((1, 2))]
    for order, (name, (colour, dashes)) in enumerate(_LOOKS.items()):
        if not len(complete):
            continue
        mean = complete[:, order].mean(0)
        axes.plot(percent, mean, color=colour, linestyle=dashes, linewidth=1.8, label=name, zorder=3)
        if len(complete) > 1:
            half = stats.t.ppf((1 + confidence) / 2, len(complete) - 1) * complete[:, order].std(0, ddof=1)
            half /= np.sqrt(len(complete))
            axes.fill_between(percent, mean - half, mean + half, color=colour, alpha=0.22, linewidth=0, zorder=2)
    if not len(complete):
        axes.text(45, 0.5, "no values", size=LABEL, color=FAINT, ha="center", va="center")
    axes.set_xlim(0, 90)
    axes.set_ylim(0, 1)
    axes.set_xticks([0, 30, 60, 90])
    axes.set_yticks([0, 0.5, 1])
    axes.set_title(
        name_of(title, axes.get_window_extent().width / axes.figure.dpi),
        size=LABEL,
        color=INK,
        loc="left",
        pad=6,
        parse_math=False,
    )
