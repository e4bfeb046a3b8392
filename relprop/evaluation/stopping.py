"""Runs that end when the interval of each method's mean is narrow enough: at one sample, wherever they are computed.

What is judged after 100, 200, ... samples follows from the run that is not stopped: its scores of these samples alone.
A run that stops is cut there. Where a unit of work reached beyond, its samples are done again as those of a run with so
many samples, and the intervals are judged once more: they are those that `relprop summary` prints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.analysis.reports.statistics import estimate_mean
from relprop.errors import InputError, near_names
from relprop.evaluation.report import Evaluation
from relprop.extras import extra
from relprop.store import State, cut, is_complete, method_names, open_evaluation, read_planned
from relprop.store.schema import METHOD_FIELDS

STEP = 100
"""Samples between two judgements."""
_RULE = re.compile(r"\s*([^\s±+]+)\s*(?:±|\+-|\+/-)\s*(\S+)\s*")
_MEANT = 'say it as "gae ±0.01" or "gae +-0.01": a score, and half the width that the interval of its mean may have'

Scores = Callable[[NDArray[np.int64]], Iterable[NDArray[Any]]]
"""From indices of samples, ascending, to the scores of each method for those of them that are done."""


@dataclass(frozen=True)
class StopRule:
    """When a run is to stop.

    Parameters
    ----------
    score : str
        Of each method.
    half_width : float
        Of the 95 % interval of its mean, at most.

    Examples
    --------
    >>> print(StopRule.parse("gae +-0.01"))
    gae ±0.01
    """

    score: str
    half_width: float

    def __str__(self) -> str:
        return f"{self.score} ±{self.half_width:g}"

    @classmethod
    def parse(cls, text: str, metrics: Iterable[str] = ()) -> StopRule:
        """Read a rule; ``metrics`` are computed beside GAE.

        Raises
        ------
        InputError
            It can't be understood, or the run does not compute that score.
        MissingExtraError
            Intervals need a package that is not installed.
        """
        found = _RULE.fullmatch(text)
        width = _number(found[2]) if found else math.nan
        if found is None or not 0 < width < math.inf:
            raise InputError(f"stop_when {text!r} can't be understood: {_MEANT}")
        scores = [field.name for field in METHOD_FIELDS if field.direction is not None]
        scores += [name for name in metrics if name not in scores]
        if found[1] not in scores:
            raise InputError(
                f"stop_when {text!r}: the run computes no score {found[1]!r}{near_names(found[1], scores)}; it "
                f"computes {', '.join(scores)}"
            )
        with extra("analysis", "stop_when"):
            import scipy  # noqa: F401 - refused before anything is computed
        return cls(found[1], width)

    def is_met(self, scores: Iterable[NDArray[Any]]) -> bool:
        """Say whether the intervals of all methods are so narrow, by their scores ``(n,)``: there is one at least."""
        judged = False
        for values in scores:
            judged = True
            found = estimate_mean(values)
            equal = found.interval == "all values are equal"
            if not (equal or (found.high - found.low) / 2 <= self.half_width):
                return False
        return judged


def check_stop(text: str, options: Mapping[str, Any]) -> StopRule:
    """Read a rule for a run with these further arguments of `relprop.evaluate`.

    Raises
    ------
    InputError
        It can't be understood, or such a run can't stop by it.
    """
    if options.get("shard", (0, 1)) not in ((0, 1), [0, 1]):
        raise InputError(
            "stop_when is judged on the first samples of the whole run, and a shard has some of them alone: do the "
            "whole run in one process, or let processes share it"
        )
    if options.get("per_class") is not None:
        raise InputError("stop_when cuts the seeded order of all samples, per_class takes others: pass one of the two")
    return StopRule.parse(text, options.get("metrics") or ())


class Judge:
    """Judges a run while it goes on.

    Parameters
    ----------
    rule : StopRule
        By which.
    after : int
        Samples that the run shall have at least, and more.
    """

    def __init__(self, rule: StopRule, after: int = 0) -> None:
        self.rule, self.after = rule, after
        self.order: NDArray[np.int64] = np.zeros(0, np.int64)
        """Indices of the samples in their order."""
        self.covered = 0
        """How many of them were done when it was judged."""
        self.met: int | None = None
        """At how many samples the run is to stop."""
        self._next = (after // STEP + 1) * STEP

    def is_due(self, covered: int) -> bool:
        """Say whether so many samples are enough for a judgement."""
        return covered >= self._next

    def look(self, order: NDArray[np.int64], covered: int, scores: Scores) -> bool:
        """Judge by samples ``(N,)`` in their order, of which ``covered`` are done; say whether to stop."""
        self.order, self.covered = order, covered
        while self.met is None and self.is_due(covered):
            if self.rule.is_met(scores(np.sort(order[: self._next]))):
                self.met = self._next
            self._next += STEP
        return self.met is not None

    def cut(self, path: Path, out: Path, unit: int) -> None:
        """Write a file as one of the samples at which to stop; both paths may be the same.

        Samples of a unit of so many mosaics that reached beyond are left to be done again.
        """
        assert self.met is not None
        whole = self.met if self.met == len(self.order) else self.met - self.met % (4 * unit)
        cut(path, out, np.sort(self.order[: self.met]), again=self.order[whole : self.met])


def evaluate_until(
    rule: StopRule,
    path: Path,
    resume: bool,
    run: Callable[[Judge], Evaluation],
    finish: Callable[[int], Evaluation],
) -> Evaluation:
    """Evaluate until a rule is met, or there are no more samples.

    Parameters
    ----------
    rule : StopRule
        By which.
    path : Path
        Of the file.
    resume : bool
        Whether there may be one: what a complete one has is not cut.
    run : callable
        Go on until the judge says to stop; the file is cut there.
    finish : callable
        Evaluate what is left of so many samples.
    """
    there = _complete_samples(path) if resume else 0
    found = []
    if there:
        found.append(finish(there))
        if there % STEP == 0 and _is_met(rule, path):
            return _stopped(rule, path, found)
    after = there
    while True:
        judge = Judge(rule, after)
        found.append(run(judge))
        if judge.met is None:
            return _joined(found, f"{rule} is not reached")
        if not found[-1].complete:
            found.append(finish(judge.met))
        if not found[-1].complete or _is_met(rule, path):
            return _stopped(rule, path, found)
        after = judge.met  # the samples that were done again made the difference


def scores_of(path: Path, rule: StopRule) -> Scores:
    """Return how the scores of a complete file are read."""

    def read(samples: NDArray[np.int64]) -> Iterable[NDArray[Any]]:
        with open_evaluation(path) as file:
            rows = np.searchsorted(file["sample"][:], samples)
            for name in method_names(file):
                group = file["methods"][name]
                yield done_scores(group[rule.score][:][rows], group["state"][:][rows])

    return read


def done_scores(values: NDArray[Any], states: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the scores ``(n,)`` of what is done, from scores and states of all, ``(N,)`` each."""
    return np.asarray(values[states == State.DONE])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _complete_samples(path: Path) -> int:
    """Return how many samples a complete file has; 0 where it is none."""
    if not path.exists():
        return 0
    with open_evaluation(path) as file:
        return (read_planned(file) or 0) if is_complete(file) else 0


def _is_met(rule: StopRule, path: Path) -> bool:
    with open_evaluation(path) as file:
        index = file["sample"][:]
    return rule.is_met(scores_of(path, rule)(index))


def _stopped(rule: StopRule, path: Path, found: Sequence[Evaluation]) -> Evaluation:
    """Write into a file why it ends where it does."""
    with open_evaluation(path) as file:
        index = file["sample"][:]
    cut(path, path, index, stopped=str(rule))
    return _joined(found, f"stopped, as {rule} is reached")


def _joined(found: Sequence[Evaluation], words: str) -> Evaluation:
    """Return what became of a run that was done in several parts."""
    seconds, explaining = (
        {name: sum(getattr(one, kind).get(name, 0.0) for one in found) for name in getattr(found[-1], kind)}
        for kind in ("seconds", "explaining")
    )
    evaluated = sum(one.evaluated for one in found)
    return replace(found[-1], evaluated=evaluated, seconds=seconds, explaining=explaining, stop=words)
