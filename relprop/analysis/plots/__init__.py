"""Plots of an evaluation, drawn from its file alone. Needs no torch."""

from relprop.analysis.plots.bars import draw_bars
from relprop.analysis.plots.best_worst import draw_extremes
from relprop.analysis.plots.curves import draw_curves
from relprop.analysis.plots.plot import Plots, plot
from relprop.analysis.plots.scatter import draw_scatter

__all__ = ["Plots", "draw_bars", "draw_curves", "draw_extremes", "draw_scatter", "plot"]
