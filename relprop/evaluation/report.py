"""The report of a run: how many samples were scored, failed, or are still to be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relprop.printed import Printed, Table
from relprop.store import State


@dataclass(frozen=True)
class Tally:
    """What became of a method's samples in a file.

    Parameters
    ----------
    done, failed, absent : int
        How many were scored, the method failed on, and are still to be done; without those that no method can score.
    failure : str
        Of the first failed one: why.
    """

    done: int
    failed: int
    absent: int
    failure: str = ""


def failed_rows(states: NDArray[np.uint8], samples: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return on which samples a method failed, ``(N,)``, by its states and the samples' own: not where none can."""
    failed: NDArray[np.bool_] = (states == State.FAILED) & (samples == State.DONE)
    return failed


def tally_of(
    states: NDArray[np.uint8], samples: NDArray[np.uint8], message: Callable[[NDArray[np.intp]], str]
) -> Tally:
    """Count a method's samples by its states and the samples' own, ``(N,)``; ``message`` returns a row's text."""
    failed = np.flatnonzero(failed_rows(states, samples))
    done, absent = int((states == State.DONE).sum()), int((states == State.ABSENT).sum())
    return Tally(done, len(failed), absent, message(failed[:1]))


@dataclass(frozen=True, repr=False)
class Evaluation(Printed):
    """A run of `evaluate` that came to its end. The scores are in the file: `relprop.Results` reads them.

    Parameters
    ----------
    path : Path
        The file.
    samples : int
        Rows in it.
    evaluated : int
        Samples worked on in this run: without those that were done before.
    unreadable : int
        Samples that could not be read, or on which the model failed.
    failure : str
        Of the first of them: why.
    one_class : int
        Samples in whose mosaic all four have one class: their contrastiveness and GAE are NaN.
    methods : mapping
        What became of the samples under each method in the file.
    seconds : mapping
        Time of this run by phase: ``loading``, ``masking``, ``explaining``, ``scoring``, ``writing`` (beside the
        others, in a thread of its own), and ``total``.
    explaining : mapping
        Of ``explaining``, by method.
    complete : bool
        Whether nothing is left to be done, under any method.
    """

    path: Path
    samples: int
    evaluated: int
    unreadable: int
    failure: str
    one_class: int
    methods: Mapping[str, Tally]
    seconds: Mapping[str, float]
    explaining: Mapping[str, float]
    complete: bool

    @property
    def failed(self) -> int:
        """How many samples failed, counted under each method; those that could not be read are counted once."""
        return self.unreadable + sum(tally.failed for tally in self.methods.values())

    def _blocks(self) -> list[str | Table]:
        usable = self.samples - self.unreadable
        lines: list[str | Table] = [f"{self.path}: {self.samples} samples{'' if self.complete else ', not complete'}"]
        if self.unreadable:
            lines.append(f"{self.unreadable} samples can't be scored, the first one because: {self.failure}")
        if self.one_class:
            lines.append(
                f"{self.one_class} of {usable} samples are in a mosaic of one class: no contrastiveness, no GAE"
                + (" (the model puts all pictures into one class)" if self.one_class == usable else "")
            )
        rows = []
        for name, tally in self.methods.items():
            parts = [f"{tally.done} scored"]
            if tally.failed:
                parts.append(f"{tally.failed} failed, the first one because: {tally.failure}")
            if tally.absent:
                parts.append(f"{tally.absent} still to do")
            rows.append([f"  {name}", ", ".join(parts)])
        spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())
        return [*lines, Table((), rows, words=2), f"{self.evaluated} samples in this run: {spent}"]
