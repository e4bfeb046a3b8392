"""The sub-command ``page``: size and first paint of a report."""

from __future__ import annotations

import shutil
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.commands.app import app
from benchmarks.conditions import ConditionsError
from relprop.analysis import Results

SIZE_LIMIT, PAINT_LIMIT = 60.0, 2.0
"""Megabytes, and seconds."""


@app.command(epilog="Example: python -m benchmarks page run.h5 --pictures photos/")
def page(
    run: Annotated[Path, typer.Argument(metavar="RUN.h5", help="What relprop evaluate wrote, with --relevance map.")],
    pictures: Annotated[Path, typer.Option(metavar="DIR", help="The pictures that were evaluated.")],
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Of the page: those of the run repeated.")] = 1000,
    method: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this method; repeatable.")] = None,
) -> None:
    """Measure the page of a run whose samples are repeated: megabytes, and seconds until Chromium first paints it."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / "page.html"
        start = time.perf_counter()
        held = _write_repeated(run, place, pictures, samples, method)
        written = time.perf_counter() - start
        size, paint = place.stat().st_size / 1e6, first_paint(place)
    typer.echo(f"{held}\nwritten in {written:.0f} s")
    typer.echo(f"size         {size:6.1f} MB (at most {SIZE_LIMIT:g})")
    typer.echo(f"first paint  {paint:6.2f} s (at most {PAINT_LIMIT:g})")
    if size > SIZE_LIMIT or paint > PAINT_LIMIT:
        raise typer.Exit(1)


def _write_repeated(run: Path, place: Path, pictures: Path, samples: int, methods: list[str] | None) -> str:
    """Write the page of a run as if it had so many samples."""

    class Repeated(Results):
        def __init__(self, path: str | Path) -> None:
            super().__init__(path)
            done = self._rows[self.samples.state == 1]
            self._rows = np.resize(done, samples)

    pages: Any = import_module("relprop.pages.report")
    original, pages.Results = pages.Results, Repeated
    try:
        return str(pages.report(run, place, pictures=pictures, methods=methods, samples=samples).holds)
    finally:
        pages.Results = original


def first_paint(place: Path) -> float:
    """Return the seconds until Chromium first paints content of a page."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise ConditionsError("first paint is measured by playwright: pip install playwright") from error
    if program is None:
        raise ConditionsError("first paint is measured in Chromium: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            opened = browser.new_page()
            opened.goto(place.resolve().as_uri(), timeout=120_000)
            found = opened.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
            return float(found) / 1000
        finally:
            browser.close()
