"""Words that fit: fonts, their widths, and lines broken or shortened to a width."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

DPI = 128  # a power of two: any number of pixels is an exact number of inches
_LINE = 1.3  # height of a line of text over the size of its font


@dataclass(frozen=True)
class Style:
    """How words look: size in points, colour, weight."""

    size: float
    colour: str
    bold: bool = False

    @property
    def font(self) -> FontProperties:
        """The font as matplotlib takes it."""
        return FontProperties(size=self.size, weight="bold" if self.bold else "normal")

    @property
    def line(self) -> int:
        """Pixels from one line to the next."""
        return round(self.ascent * _LINE)

    @property
    def ascent(self) -> int:
        """Pixels from the top of a line to where its letters stand."""
        return round(self.size * DPI / 72)


def fit(text: str, width: int, style: Style, lines: int) -> list[str]:
    """Wrap words to a width in pixels; what needs more lines loses its middle, as ends hold numbers and names."""
    most = max(lines * width, 1)  # no letter is narrower than a pixel
    if len(text) > most:
        text = _shortened(text, most)
    wrapped = _wrap(text, width, style)
    if len(wrapped) <= lines:
        return wrapped
    fits, fails = 0, len(text)
    while fails - fits > 1:
        kept = (fits + fails) // 2
        if len(_wrap(_shortened(text, kept), width, style)) <= lines:
            fits = kept
        else:
            fails = kept
    return _wrap(_shortened(text, fits), width, style)


def _shortened(text: str, kept: int) -> str:
    tail = kept // 3
    return text[: kept - tail].rstrip() + "…" + (text[-tail:].lstrip() if tail else "")


def _wrap(text: str, width: int, style: Style) -> list[str]:
    """Break lines at spaces; words too long for a line inside of module paths, or else anywhere."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in re.findall(r"\s+|\S+", paragraph):
            for piece in re.findall(r"[^./_]*[./_]*", word) if _count(word, width, style) < len(word) else [word]:
                if line and _count(line + piece, width, style) < len(line + piece):
                    lines.append(line.rstrip())
                    line = ""
                line = (line + piece).lstrip()
                while (cut := max(_count(line, width, style), 1)) < len(line):
                    lines.append(line[:cut])
                    line = line[cut:]
        lines.append(line.rstrip())
    return lines


def _count(text: str, width: int, style: Style) -> int:
    """Return how many letters fit, at the cost of those alone, however long the text is."""
    fits, fails = 0, 1
    while fails <= len(text) and measure(text[:fails], style) <= width:
        fits, fails = fails, 2 * fails
    fails = min(fails, len(text) + 1)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if measure(text[:middle], style) <= width:
            fits = middle
        else:
            fails = middle
    return fits


@lru_cache(maxsize=4096)
def measure(text: str, style: Style) -> float:
    """Return the width of a line of text in pixels."""
    measured = _measure().get_text_width_height_descent(text, style.font, ismath=False)  # type: ignore[no-untyped-call]
    return float(measured[0])


@lru_cache(maxsize=1)
def _measure() -> RendererAgg:
    return RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]
