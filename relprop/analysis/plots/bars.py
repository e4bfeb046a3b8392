"""LC, C and GAE of each method, with intervals."""

from __future__ import annotations

from math import isfinite

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
    SMALL,
    figure,
    inside,
    name_of,
    quiet,
    whiskers,
    width_of,
)
from relprop.analysis.summaries import HEADLINE, MethodSummary, Summary

_ROW, _PANEL, _LONGEST = 0.34, 2.5, 2.6  # inches
_ORDER = ("local_consistency", "contrastiveness", "gae")
_MEANING = {"local_consistency": "local consistency", "contrastiveness": "contrastiveness", "gae": "LC * C"}


def draw_bars(summary: Summary) -> Figure:
    """Draw means and intervals of the headline scores, the best method on top, controls in grey."""
    methods = summary.methods
    counts = sorted({method.done for method in methods})
    samples = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    note = (
        f"mean over {samples} samples; whiskers: {summary.confidence:.0%} bootstrap interval (BCa). "
        "Higher is better, all scores lie between 0 and 1."
    )
    if any(method.control for method in methods):
        note += " Grey: controls, which tell what chance reaches; dashed: the best of them."
    names = [name_of(method.title, _LONGEST) for method in methods]
    left = max(width_of(name) for name in names) + 0.35
    shape = figure(left + 3 * _PANEL + 0.4, len(methods) * _ROW + 1.65, "Local consistency, contrastiveness, GAE", note)
    panels = shape.subplots(1, 3, sharey=True, gridspec_kw={"wspace": 0.18} | inside(shape, left, 0.35, foot=0.85))
    for axes, score in zip(panels, _ORDER, strict=True):
        _draw_panel(axes, methods, score)
    panels[0].set_yticks(range(len(methods)), names, size=LABEL)
    for label, method in zip(panels[0].get_yticklabels(), methods, strict=True):
        label.set_parse_math(False)
        label.set_color(FAINT if method.control else INK)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    return shape


def _draw_panel(axes: Axes, methods: tuple[MethodSummary, ...], score: str) -> None:
    estimates = [method.scores[score].estimate for method in methods]
    reached = [value for e in estimates for value in (e.mean, e.high) if isfinite(value)]
    edge = max([*reached, 0.05])
    chance = [e.mean for e, method in zip(estimates, methods, strict=True) if method.control and isfinite(e.mean)]
    quiet(axes)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.spines["bottom"].set_visible(False)
    if chance:
        axes.axvline(max(chance), color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
    for row, (method, estimate) in enumerate(zip(methods, estimates, strict=True)):
        if not isfinite(estimate.mean):
            axes.text(0.02 * edge, row, "no score", size=SMALL, color=FAINT, va="center")
            continue
        axes.barh(row, estimate.mean, height=0.62, color=GREY if method.control else BLUE, alpha=0.85, zorder=2)
        end = estimate.mean
        if isfinite(estimate.low):
            axes.errorbar(estimate.mean, row, xerr=whiskers(estimate), color=INK, linewidth=1.2, capsize=2.5, zorder=4)
            end = estimate.high
        words = f"{estimate.mean:.3f}"
        axes.text(end + 0.03 * edge, row, words, size=SMALL, color=INK, va="center", zorder=5, path_effects=HALO)
    axes.set_xlim(0, 1.2 * edge)
    axes.set_title(f"{HEADLINE[score]}   {_MEANING[score]}", size=LABEL, color=INK, loc="left", pad=8)
    axes.locator_params(axis="x", nbins=5)
