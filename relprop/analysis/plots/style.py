"""The style of all plots: colours that everybody can distinguish, quiet axes, room for names."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from relprop.analysis.reports.statistics import Estimate
from relprop.pictures.lettering import DPI, Style, fit, measure
from relprop.pictures.tiles import Drawing

# Okabe and Ito's colours.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
GREY = "#9A9A9A"
INK, FAINT, LINE = "#1a1a1a", "#5c5c5c", "#d9d9d9"
TITLE, NOTE, LABEL, SMALL = 13, 9, 9.5, 8
_TITLE_STYLE, _NOTE_STYLE = Style(TITLE, INK, bold=True), Style(NOTE, FAINT)


def figure(width: float, height: float, title: str, note: str) -> Figure:
    """Return a figure of a size in inches, with its title and a note on how to read it; see `inside`."""
    found = Drawing(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(found)
    room = round((width - 0.3) * DPI)
    words = "\n".join(fit(title, room, _TITLE_STYLE, 1))
    found.text(0.15 / width, 1 - 0.14 / height, words, size=TITLE, weight="bold", color=INK, va="top", parse_math=False)
    lines = "\n".join(fit(note, room, _NOTE_STYLE, 3))
    found.text(0.15 / width, 0.12 / height, lines, size=NOTE, color=FAINT, va="bottom", parse_math=False)
    return found


def inside(shape: Figure, left: float, right: float, foot: float, head: float = 0.72) -> dict[str, float]:
    """Return margins in inches, around the axes, as fractions for ``subplots``."""
    width, height = shape.get_size_inches()
    return {"left": left / width, "right": 1 - right / width, "top": 1 - head / height, "bottom": foot / height}


def quiet(axes: Axes) -> None:
    """Take away all lines of a plot's frame that say nothing."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=FAINT, labelsize=SMALL, length=0)
    axes.set_axisbelow(True)


def grid_of(panels: int) -> tuple[int, int]:
    """Return rows and columns for a number of panels, with as few places empty as can be."""
    if panels <= 4:
        return 1, max(panels, 1)
    columns = min((4, 5, 3), key=lambda columns: -panels % columns)
    return math.ceil(panels / columns), columns


def side_of(columns: int) -> float:
    """Return the side of a panel in inches: a single one is large."""
    return {1: 4.2, 2: 3.4, 3: 2.9}.get(columns, 2.35)


def name_of(method: str, inches: float, size: float = LABEL) -> str:
    """Shorten a name in its middle to fit a width."""
    return fit(method, round(inches * DPI), Style(size, INK), 1)[0]


def width_of(words: str, size: float = LABEL) -> float:
    """Return the width of words in inches."""
    return measure(words, Style(size, INK)) / DPI


def whiskers(estimate: Estimate) -> list[list[float]] | None:
    """Return how far the interval of a mean reaches to both sides; None where there is none."""
    if not math.isfinite(estimate.low):
        return None
    return [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]


HALO = [withStroke(linewidth=2.5, foreground="white")]
"""Behind small words that lie on lines."""
