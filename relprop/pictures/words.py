"""Words on grounds whose colour is their relevance: as a figure, for a terminal, and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from relprop.pictures.colours import Array, heat_colours
from relprop.pictures.lettering import DPI, Style, measure

_WIDTH, _EDGE, _GAP, _PAD = 1100, 18, 4, 5
_WORD, _TITLE = Style(11, "#1a1a1a"), Style(9.5, "#5c5c5c")
_BRIGHTEST = 0.75
"""Letters stay dark: the strongest ground is no darker than this part of the scale."""


def colours_of(values: Array) -> list[tuple[int, int, int]]:
    """Return a ground for each of ``(N,)`` numbers: red where positive, blue where negative, white at zero."""
    largest = float(np.abs(values).max(initial=0.0))
    scaled = _BRIGHTEST * np.asarray(values, np.float64) / (largest or 1.0)
    return [(int(r), int(g), int(b)) for r, g, b in heat_colours(scaled[None])[0]]


def visible(word: str) -> str:
    """Return a word in which every line break and control character is written out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in word)


def words_for_terminal(words: Sequence[str], values: Array) -> str:
    """Return N words, of numbers ``(N,)``, with grounds that a terminal with 24-bit colours shows."""
    parts = (
        f"\x1b[48;2;{r};{g};{b}m\x1b[38;2;26;26;26m{visible(word)}\x1b[0m"
        for word, (r, g, b) in zip(words, colours_of(values), strict=True)
    )
    return "".join(parts)


def words_as_html(words: Sequence[str], values: Array, title: str) -> str:
    """Return N words, of numbers ``(N,)``, with grounds as HTML; pointing at one shows its number."""
    spans = "".join(
        f'<span title="{float(value):.3g}" style="background: rgb({r}, {g}, {b}); color: #1a1a1a; padding: 2px 0; '
        f'white-space: pre-wrap">{escape(visible(word))}</span>'
        for word, value, (r, g, b) in zip(words, values, colours_of(values), strict=True)
    )
    return f'<p style="line-height: 1.8"><small>{escape(title)}</small><br>{spans}</p>'


def words_figure(rows: Sequence[tuple[str, Sequence[str], Array]]) -> Figure:
    """Draw texts one below the other.

    Parameters
    ----------
    rows : sequence of (str, sequence of str, ndarray)
        Title, words and the number of each, ``(N,)``.
    """
    placed: list[tuple[float, float, str, Style, tuple[int, int, int] | None, float]] = []
    y = float(_EDGE)
    for title, words, values in rows:
        placed.append((_EDGE, y, title, _TITLE, None, 0.0))
        y += _TITLE.line + _PAD
        x = float(_EDGE)
        for word, colour in zip(map(visible, words), colours_of(values), strict=True):
            width = measure(word.strip() or "n", _WORD) + 2 * _PAD
            if x > _EDGE and x + width > _WIDTH - _EDGE:
                x, y = float(_EDGE), y + _WORD.line + 2 * _PAD + _GAP
            placed.append((x, y, word.strip(), _WORD, colour, width))
            x += width + _GAP
        y += _WORD.line + 2 * _PAD + _EDGE
    figure = Figure(figsize=(_WIDTH / DPI, y / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for x, top, word, style, ground_colour, width in placed:
        if ground_colour is not None:
            height = style.line + 2 * _PAD
            ground = Rectangle(
                (x / _WIDTH, 1 - (top + height) / y),
                width / _WIDTH,
                height / y,
                facecolor=[part / 255 for part in ground_colour],
                edgecolor="#dddddd",
                linewidth=0.5,
                transform=figure.transFigure,
            )
            figure.add_artist(ground)
        down = top + style.ascent + (_PAD if ground_colour is not None else 0)
        right = _PAD if ground_colour is not None else 0
        figure.text(
            (x + right) / _WIDTH,
            1 - down / y,
            word,
            fontproperties=style.font,
            color=style.colour,
            va="baseline",
            parse_math=False,
        )
    return figure
