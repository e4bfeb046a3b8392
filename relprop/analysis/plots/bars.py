"""Bars of LC, C and GAE of each method, or of another score, with intervals."""

from __future__ import annotations

from math import isfinite, nan

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
from relprop.analysis.records import ScoreInfo
from relprop.analysis.reports.statistics import Estimate
from relprop.analysis.reports.summaries import HEADLINE, MethodSummary, Summary

_ROW, _PANEL, _LONGEST = 0.34, 2.5, 2.6  # inches
_ORDER = ("local_consistency", "contrastiveness", "gae")
_MEANING = {"local_consistency": "local consistency", "contrastiveness": "contrastiveness", "gae": "LC * C"}
_NONE = Estimate(nan, nan, nan, 0, "no such score")


def draw_bars(summary: Summary, by: ScoreInfo | None = None) -> Figure:
    """Draw means and intervals of the headline scores, the method of the highest GAE on top, controls in grey.

    Parameters
    ----------
    summary : Summary
        Of all methods.
    by : ScoreInfo, optional
        A score that has a panel of its own where it is none of these.
    """
    scores = {name: ScoreInfo(name, _MEANING[name], 0.0, 1.0, "higher is better") for name in _ORDER}
    own_score = by if by is not None and by.name not in scores else None
    methods = summary.methods
    counts = sorted({method.done for method in methods})
    samples = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    note = (
        f"mean over {samples} samples; whiskers: {summary.confidence:.0%} bootstrap interval (BCa). "
        "Higher is better, all scores lie between 0 and 1."
    )
    if own_score is not None:
        scores[own_score.name] = own_score
        note = note.replace("all scores", "LC, C and GAE") + f" {own_score.name}: {own_score.long_name}"
        note += "." if own_score.direction == "none" else f"; {own_score.direction}."
    if any(method.control for method in methods):
        note += " Grey: controls, which tell what chance reaches; dashed: the best of them."
    names = [name_of(method.title, _LONGEST) for method in methods]
    left = max(width_of(name) for name in names) + 0.35
    title = ", ".join(["Local consistency, contrastiveness, GAE", *([own_score.name] if own_score else [])])
    shape = figure(left + len(scores) * _PANEL + 0.4, len(methods) * _ROW + 1.65, title, note)
    margins = inside(shape, left, 0.35, foot=0.85)
    panels = shape.subplots(1, len(scores), sharey=True, gridspec_kw={"wspace": 0.18} | margins)
    for axes, score in zip(panels, scores.values(), strict=True):
        _draw_panel(axes, methods, score)
    panels[0].set_yticks(range(len(methods)), names, size=LABEL)
    for label, method in zip(panels[0].get_yticklabels(), methods, strict=True):
        label.set_parse_math(False)
        label.set_color(FAINT if method.control else INK)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    return shape


def _draw_panel(axes: Axes, methods: tuple[MethodSummary, ...], score: ScoreInfo) -> None:
    estimates = [method.scores[score.name].estimate if score.name in method.scores else _NONE for method in methods]
    reached = [value for e in estimates for value in (e.mean, e.low, e.high) if isfinite(value)]
    edge, start = max([*reached, 0.05]), min([*reached, 0.0])
    chance = [e.mean for e, method in zip(estimates, methods, strict=True) if method.control and isfinite(e.mean)]
    quiet(axes)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.spines["bottom"].set_visible(False)
    if chance and score.direction != "none":
        best = max(chance) if score.sign > 0 else min(chance)
        axes.axvline(best, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
    for row, (method, estimate) in enumerate(zip(methods, estimates, strict=True)):
        if not isfinite(estimate.mean):
            axes.text(0.02 * (edge - start), row, "no score", size=SMALL, color=FAINT, va="center")
            continue
        axes.barh(row, estimate.mean, height=0.62, color=GREY if method.control else BLUE, alpha=0.85, zorder=2)
        end = max(estimate.mean, 0.0)
        if isfinite(estimate.low):
            axes.errorbar(estimate.mean, row, xerr=whiskers(estimate), color=INK, linewidth=1.2, capsize=2.5, zorder=4)
            end = max(estimate.high, 0.0)
        words = f"{estimate.mean:.3f}"
        place = end + 0.03 * (edge - start)
        axes.text(place, row, words, size=SMALL, color=INK, va="center", zorder=5, path_effects=HALO)
    axes.set_xlim(start * 1.05, edge + 0.2 * (edge - start))
    words = f"{HEADLINE[score.name]}   {score.long_name}" if score.name in HEADLINE else name_of(score.name, _PANEL)
    axes.set_title(words, size=LABEL, color=INK, loc="left", pad=8, parse_math=False)
    axes.locator_params(axis="x", nbins=5)
