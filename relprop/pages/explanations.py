"""The page of ``relprop explain --html``: pictures with their maps, what the model says, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from relprop.pages.rendering import require_extra, write_page
from relprop.pages.report import LARGEST_PAGE
from relprop.pages.thumbnails import choose_side, data_uri, shrunk
from relprop.pictures import Array, Legend, Pixels, heat_colours, overlay
from relprop.pictures.tiles import legend_ramp, scaled, sharp, tile_size

LARGEST = 448
"""Side of a picture in pixels, where the page has room."""
_RAMP = 256  # pixels of a colour bar


@dataclass(frozen=True, eq=False)
class ExplainedClass:
    """One class of a picture.

    Parameters
    ----------
    title : str
        The class and its probability.
    heat : ndarray
        Its map in [-1, 1], ``(H, W)``.
    legend : Legend
        What the ends of the colour bar stand for.
    caption : str
        What the map is, and the numbers that go with it.
    caution : str
        What keeps the map from being misread; empty where nothing does.
    """

    title: str
    heat: Array
    legend: Legend
    caption: str
    caution: str


@dataclass(frozen=True)
class Bar:
    """The probability of a class, and whether it is explained."""

    label: str
    probability: float
    explained: bool


@dataclass(frozen=True)
class _Panel:
    """One class as the template shows it: words, and addresses of images."""

    explained: ExplainedClass
    map: str
    overlay: str
    ramp: str


@dataclass(frozen=True)
class _Entry:
    """One picture as the template shows it; with an error in place of all else where it could not be explained."""

    name: str
    picture: str = ""
    panels: tuple[_Panel, ...] = ()
    bars: tuple[Bar, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    error: str = ""


class ExplanationPage:
    """Gathers pictures, and writes them as one page.

    Parameters
    ----------
    path : Path
        Of the page: links to files are relative to its folder.
    count : int
        How many maps it will hold, which decides how large they can be.

    Raises
    ------
    MissingExtraError
        If jinja2 is not installed: said before anything is explained.
    """

    def __init__(self, path: Path, count: int) -> None:
        require_extra()
        self.path = path
        self.count = count
        self._side = 0
        self._entries: list[_Entry] = []

    def add(
        self, name: str, seen: Pixels, classes: Sequence[ExplainedClass], bars: Sequence[Bar], files: Mapping[str, str]
    ) -> None:
        """Add a picture.

        Parameters
        ----------
        name : str
            What it is called.
        seen : ndarray
            What the model saw, uint8 RGB ``(H, W, 3)``.
        classes : sequence of ExplainedClass
            What was explained of it.
        bars : sequence of Bar
            Probabilities, the largest first.
        files : mapping of str to str
            Names of files that hold more, beside the page, by their kind.
        """
        size = tile_size(seen.shape[:2], LARGEST)
        picture = scaled(seen, size)
        drawn = [(heat_colours(sharp(one.heat, size)), scaled(overlay(seen, one.heat), size)) for one in classes]
        if not self._side:
            probe = [picture, *(image for pair in drawn for image in pair)]
            images = round(self.count * len(probe) / len(classes))
            self._side = choose_side(probe, images, LARGEST_PAGE * 3 // 4, LARGEST)
        panels = [
            _Panel(
                one, self._address(heat), self._address(over), data_uri(legend_ramp(one.legend, _RAMP), lossless=True)
            )
            for one, (heat, over) in zip(classes, drawn, strict=True)
        ]
        links = tuple((kind, quote(file)) for kind, file in files.items())
        self._entries.append(_Entry(name, self._address(picture), tuple(panels), tuple(bars), links))

    def fail(self, name: str, message: str) -> None:
        """Add a picture that could not be explained."""
        self._entries.append(_Entry(name, error=message))

    def write(self, facts: Sequence[tuple[str, str]]) -> None:
        """Write the page: the whole file or none.

        Parameters
        ----------
        facts : sequence of (str, str)
            What holds for all pictures: names and values.

        Raises
        ------
        OutputError
            If it can't be written.
        """
        explained = sum(not entry.error for entry in self._entries)
        context = {
            "title": f"Relevance maps of {explained} picture{'' if explained == 1 else 's'}",
            "facts": facts,
            "entries": self._entries,
        }
        write_page(self.path, "explanations.html", ("viewer.js", "explanations.js"), context)

    def _address(self, picture: Pixels) -> str:
        """Return a picture ``(H, W, 3)`` as an address, no larger than the page has room for."""
        return data_uri(shrunk(picture, self._side))
