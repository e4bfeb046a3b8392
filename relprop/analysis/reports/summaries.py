"""Summaries: the mean score of each method over all samples, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from relprop.analysis.records import AnalysisError, Values
from relprop.analysis.reports.statistics import Estimate, estimate_mean
from relprop.analysis.selection import state_in_words
from relprop.analysis.tables import number, plain
from relprop.printed import Printed, Table
from relprop.store import FLAGS, State

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection

HEADLINE = {"gae": "GAE", "local_consistency": "LC", "contrastiveness": "C"}
PARTS = {
    "faithfulness": "F",
    "robustness": "robustness",
    "unclipped": "F + robustness",
    "contrastiveness_raw": "raw C",
}
"""Before clipping, which hides what is below chance."""


@dataclass(frozen=True)
class ScoreSummary:
    """One score of one method.

    Parameters
    ----------
    estimate : Estimate
        Mean and interval.
    median : float
        NaN without values.
    undefined : int
        Samples that are done, but have no score.
    """

    estimate: Estimate
    median: float
    undefined: int


@dataclass(frozen=True)
class MethodSummary:
    """One method.

    Parameters
    ----------
    method, description : str
        Its name, and what it is.
    control : bool
        Whether it tells what chance reaches.
    done, failed, absent : int
        How many samples.
    flagged : mapping of str to int
        On how many samples done a score met 0/0 or is undefined, by the names of `relprop.store.FLAGS`; without
        those that are on none.
    scores : mapping of str to ScoreSummary
        By the names of scores.
    seconds : float
        Mean time of all maps of a sample.
    """

    method: str
    description: str
    control: bool
    done: int
    failed: int
    absent: int
    flagged: Mapping[str, int]
    scores: Mapping[str, ScoreSummary]
    seconds: float

    @property
    def title(self) -> str:
        """The name, with a remark at controls."""
        return f"{self.method} (chance)" if self.control else self.method

    def mean(self, score: str) -> float:
        """Return the mean of a score, NaN where there is none."""
        found = self.scores.get(score)
        return found.estimate.mean if found else nan


@dataclass(frozen=True, repr=False)
class Summary(Printed):
    """All methods, the one of the highest GAE first.

    Parameters
    ----------
    path : str
        The file.
    samples : int
        How many are selected.
    evaluated, planned : int
        How many of them are done or failed under each method, and how many there will be.
    complete : bool
        Whether the run is.
    stopped : str
        The rule by which it ended; empty where none did.
    confidence : float
        Of the intervals.
    methods : tuple of MethodSummary
        By falling GAE.
    """

    path: str
    samples: int
    evaluated: int
    planned: int
    complete: bool
    stopped: str
    confidence: float
    methods: tuple[MethodSummary, ...]

    def _blocks(self) -> list[str | Table]:
        head = f"{self.path}: {state_in_words(self.evaluated, self.planned, self.complete, self.stopped)}"
        if not self.methods:
            return [f"{head}, no methods"]
        blocks: list[str | Table] = [
            head,
            f"mean [{self.confidence:.0%} interval] over the samples done",
            "",
            self._scores(HEADLINE, _interval),
            "",
            "before clipping",
            "",
            self._scores(PARTS, _interval),
        ]
        shown = {*HEADLINE, *PARTS}
        metrics = {name: name for method in self.methods for name in method.scores if name not in shown}
        if metrics:
            blocks += ["", "further metrics", "", self._scores(metrics, _interval)]
        medians = self._scores(HEADLINE | PARTS, lambda found: number(found.median))
        return [*blocks, "", "medians", "", medians, "", self._counts(), *self._remarks()]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return dict(plain(self))

    def __getitem__(self, method: str) -> MethodSummary:
        return {found.method: found for found in self.methods}[method]

    def _scores(self, names: Mapping[str, str], write: Callable[[ScoreSummary], str]) -> Table:
        rows = [
            [method.title, *(write(method.scores[name]) if name in method.scores else "-" for name in names)]
            for method in self.methods
        ]
        return Table(["method", *names.values()], rows)

    def _counts(self) -> Table:
        rows = []
        for method in self.methods:
            undefined = method.scores["gae"].undefined if "gae" in method.scores else 0
            flagged = ", ".join(f"{name} {count}" for name, count in method.flagged.items()) or "-"
            counts = [method.done, method.failed, method.absent, undefined]
            rows.append([method.title, *map(str, counts), number(method.seconds), flagged])
        return Table(["method", "done", "failed", "absent", "no GAE", "seconds", "flagged"], rows)

    def _remarks(self) -> list[str]:
        """Say why intervals are missing, where they are."""
        found: dict[str, list[str]] = {}
        for method in self.methods:
            for name, score in method.scores.items():
                if score.estimate.n and not isfinite(score.estimate.low):
                    found.setdefault(f"no interval, as {_WHY[score.estimate.interval]}", []).append(
                        f"{(HEADLINE | PARTS).get(name, name)} of {method.method}"
                    )
        return [line for why, which in found.items() for line in ("", f"{why}: {', '.join(which)}")]


_WHY = {"too few values": "there are fewer than three values", "all values are equal": "all values are equal"}


def summarise(results: ScoredSelection, confidence: float, seed: int) -> Summary:
    """Summarise the methods selected over the samples selected."""
    if not 0 < confidence < 1:
        raise AnalysisError(f"a confidence lies between 0 and 1, not {confidence}")
    methods = [_summarise(results[name], confidence, seed) for name in results.methods]
    methods.sort(key=lambda method: (-_or_lowest(method.mean("gae")), method.method))
    counts = len(results), results.evaluated, results.planned
    return Summary(str(results.path), *counts, results.complete, results.stopped, confidence, tuple(methods))


def _summarise(results: ScoredSelection, confidence: float, seed: int) -> MethodSummary:
    (name,) = results.methods
    states, flags, seconds = results.state(), results.flags(), results.seconds()
    done = states == State.DONE
    flagged = {word: int((flags[done] & bit > 0).sum()) for word, bit in FLAGS.items()}
    scores = {}
    for score, values in results.scores().items():
        found = values[done]
        missing = int(np.isnan(found).sum())
        scores[score] = ScoreSummary(estimate_mean(found, confidence, seed), _mid(found), missing)
    return MethodSummary(
        method=name,
        description=results.description(),
        control=results.is_control(),
        done=int(done.sum()),
        failed=int((states == State.FAILED).sum()),
        absent=int((states == State.ABSENT).sum()),
        flagged={word: count for word, count in flagged.items() if count},
        scores=scores,
        seconds=_mean(seconds),
    )


def _interval(found: ScoreSummary) -> str:
    estimate = found.estimate
    if not isfinite(estimate.low):
        return number(estimate.mean) + (" [    -     ]" if isfinite(estimate.mean) else "")
    return f"{number(estimate.mean)} [{number(estimate.low)}, {number(estimate.high)}]"


def _mid(values: Values) -> float:
    """Return the median of scores ``(N,)``, NaN left out."""
    finite = values[~np.isnan(values)]
    return float(np.median(finite)) if len(finite) else nan


def _mean(values: Values) -> float:
    """Return the mean of scores ``(N,)``, NaN left out."""
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if len(finite) else nan


def _or_lowest(value: float) -> float:
    return value if isfinite(value) else float("-inf")
