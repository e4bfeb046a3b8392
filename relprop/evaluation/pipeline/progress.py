"""The progress of a run: a bar, lines where nobody sees a bar, and a log for machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from relprop.evaluation.pipeline.standing import Standing
from relprop.files import OutputError
from relprop.files.lines import LineFile
from relprop.run.progress import bars_are_seen, no_bars, progress_bar

Progress = Callable[[float, int | None], None]
"""Called with the samples worked off so far and the number of all, None of a stream."""

INTERVAL = 60.0
"""Seconds between two lines."""


@contextmanager
def shown(progress: Progress | bool, standing: Standing, log: Path | None = None) -> Iterator[Progress]:
    """Return the function that reports progress; it is called with the samples worked off.

    It is the user's own, or a bar with the samples a second. Where no terminal or notebook shows the bar it writes a
    line a minute to standard error. ``log`` gets such lines in any case, as JSON, and one in the end.

    Raises
    ------
    OutputError
        The log can't be written.
    """
    with ExitStack() as stack:
        tellers = [stack.enter_context(_bar(progress)) if isinstance(progress, bool) else progress]
        if progress is True and sys.stderr is not None and not bars_are_seen():
            tellers.append(Lines(standing).tell)
        if log is not None:
            lines = Lines(standing, stack.enter_context(closing(LineFile(log))))
            stack.push(lines.end)
            tellers.append(lines.tell)

        def tell(done: float, total: int | None) -> None:
            for teller in tellers:
                teller(done, total)

        yield tell


class Lines:
    """Lines about a run, one a minute: for people, or into a log as JSON.

    Parameters
    ----------
    standing : Standing
        How the run stands; it changes meanwhile.
    log : LineFile, optional
        Without one lines are for people, on standard error.
    """

    def __init__(self, standing: Standing, log: LineFile | None = None) -> None:
        self._standing, self._log = standing, log
        self._start = self._last = time.monotonic()
        self._before: float | None = None  # what earlier runs had done
        self._now: tuple[float, int | None] = (0.0, None)

    def tell(self, done: float, total: int | None) -> None:
        """Write a line where the last one is a minute old."""
        if self._before is None:
            self._before = done
        self._now = done, total
        now = time.monotonic()
        if now - self._last >= INTERVAL:
            self._last = now
            self._write()

    def end(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write the last line; where an error ends the run, that is raised whatever becomes of the line."""
        try:
            self._write()
        except OutputError:
            if error is None:
                raise

    def _write(self) -> None:
        done, total = self._now
        rate = (done - (self._before or 0.0)) / max(1e-9, time.monotonic() - self._start)
        left = (total - done) / rate if total is not None and rate > 0 else None
        if self._log is not None:
            values = {"done": round(done, 2), "total": total, "rate": round(rate, 4), "left": left and round(left, 1)}
            when = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
            self._log.add(when | values | self._standing.as_dict())
            return
        words = [f"{done:.0f}{'' if total is None else f' of {total}'} samples", f"{self._standing.failed} failed"]
        words.append(f"{rate:.3g} a second")
        if left is not None:
            words.append(f"{timedelta(seconds=round(left))} left")
        gae = str(self._standing)
        print(f"relprop: {', '.join(words)}{f'; GAE {gae}' if gae else ''}", file=sys.stderr, flush=True)


@contextmanager
def _bar(seen: bool) -> Iterator[Progress]:
    layout = "{l_bar}{bar}| {n:.0f}/{total_fmt} samples [{elapsed}<{remaining}, {rate_fmt}]"
    with nullcontext() if seen else no_bars(), progress_bar(None, "sample", bar_format=layout) as bar:

        def show(done: float, total: int | None) -> None:
            if bar.total is None:
                bar.total, bar.initial = total, done
            bar.update(done - bar.n)

        yield show
