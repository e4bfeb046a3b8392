"""Telling how far a run is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from relprop.run.progress import no_bars, progress_bar

Progress = Callable[[float, int | None], None]
"""Called with the samples worked off so far and the number of all, None of a stream."""


@contextmanager
def shown(progress: Progress | bool) -> Iterator[Progress]:
    """Return what is told of the samples worked off: a function of the user's, or a bar with how many a second."""
    if callable(progress):
        yield progress
        return
    layout = "{l_bar}{bar}| {n:.0f}/{total_fmt} samples [{elapsed}<{remaining}, {rate_fmt}]"
    with nullcontext() if progress else no_bars(), progress_bar(None, "sample", bar_format=layout) as bar:

        def show(done: float, total: int | None) -> None:
            if bar.total is None:
                bar.total, bar.initial = total, done
            bar.update(done - bar.n)

        yield show
