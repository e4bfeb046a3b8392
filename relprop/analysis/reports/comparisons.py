"""Comparisons of two methods on the same samples: difference, interval, test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from relprop.analysis.records import AnalysisError, ScoreInfo, Values
from relprop.analysis.reports.statistics import Estimate, estimate_mean, holm, signed_rank_p
from relprop.analysis.tables import number, p_value, plain
from relprop.printed import Printed, Table

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection


LEVEL = 0.05
"""A p-value that is not below it settles nothing."""


@dataclass(frozen=True, repr=False)
class Comparison(Printed):
    """Two methods, on the samples that both have a score for.

    Parameters
    ----------
    a, b : str
        The methods.
    by : str
        The score.
    direction : str
        ``"higher is better"``, ``"lower is better"`` or ``"none"``.
    n, unpaired : int
        Samples that both have a score for, and that only one has.
    mean_a, mean_b : float
        Over the n samples.
    difference : Estimate
        Mean of ``a - b`` with its interval.
    median_difference : float
        Median of ``a - b``.
    p : float
        Of Wilcoxon's signed-rank test, two-sided; adjusted by Holm where several methods are compared.
    wins, losses, ties : int
        On how many samples a is better, worse, and equal.
    win_rate : float
        In [0, 1], ties counted as half a win.
    tests : int
        For how many comparisons p is adjusted.
    """

    a: str
    b: str
    by: str
    direction: str
    n: int
    unpaired: int
    mean_a: float
    mean_b: float
    difference: Estimate
    median_difference: float
    p: float
    wins: int
    losses: int
    ties: int
    win_rate: float
    tests: int = 1

    def _blocks(self) -> list[str | Table]:
        return [_table([self], "p"), "", self.verdict]

    @property
    def verdict(self) -> str:
        """What the numbers say, in a sentence: that a method is better only where interval and test both say so."""
        if not self.n:
            return f"no sample has {self.by} of both {self.a} and {self.b}"
        where = f"on {self.n} sample{'s' if self.n > 1 else ''}"
        if self.n < 3:
            return f"{where} nothing can be told about {self.a} and {self.b}"
        if self.ties == self.n:
            return f"{self.a} and {self.b} have the same {self.by} {where}"
        low, high = self.difference.low, self.difference.high
        interval = "the interval of the difference leaves zero out"
        if not isfinite(low):  # all differences are equal, and not zero
            low = high = self.difference.mean
            interval = "the difference is the same on all of them"
        apart, significant = not low <= 0 <= high, self.p < LEVEL
        if not apart and not significant:
            return f"no difference in {self.by} between {self.a} and {self.b} can be told from chance {where}"
        if not (apart and significant):
            test = "the signed-rank test" + (" with Holm's correction" if self.tests > 1 else "")
            why = f"{interval}, but {test} finds none (p = {p_value(self.p)})"
            if significant:
                why = f"{test} finds a difference (p = {p_value(self.p)}), but its interval does not leave zero out"
            return f"whether {self.a} and {self.b} differ in {self.by} is not settled {where}: {why}"
        above, below = (self.a, self.b) if low > 0 else (self.b, self.a)
        size = f"by {abs(self.difference.mean):.3f} in the mean, {where}"
        if self.direction == "none":
            return f"{above} has a higher {self.by} than {below}, {size}"
        if self.direction == "lower is better":
            above, below = below, above
        return f"{above} is better than {below} in {self.by}, {size}"

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return dict(plain(self), verdict=self.verdict)


@dataclass(frozen=True, repr=False)
class Comparisons(Printed):
    """One method and several others.

    Parameters
    ----------
    a, by : str
        The method, and the score.
    pairs : tuple of Comparison
        With p-values adjusted for their number (Holm 1979).
    """

    a: str
    by: str
    pairs: tuple[Comparison, ...]

    def _blocks(self) -> list[str | Table]:
        return [_table(self.pairs, "p (Holm)"), "", *(pair.verdict for pair in self.pairs)]

    def __getitem__(self, b: str) -> Comparison:
        return {pair.b: pair for pair in self.pairs}[b]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return {"a": self.a, "by": self.by, "pairs": [pair.as_dict() for pair in self.pairs]}


def compare(results: ScoredSelection, a: str, b: str, by: str, confidence: float, seed: int) -> Comparison:
    """Compare two methods, see `Results.compare`."""
    a, b = results.method_named(a), results.method_named(b)
    if a == b:
        raise AnalysisError(f"{a} can't be compared with itself: name two methods")
    if not 0 < confidence < 1:
        raise AnalysisError(f"a confidence lies between 0 and 1, not {confidence}")
    return compare_scores(a, b, results.score(by, a), results.score(by, b), results.score_info[by], confidence, seed)


def compare_scores(
    a: str, b: str, left: Values, right: Values, info: ScoreInfo, confidence: float, seed: int
) -> Comparison:
    """Compare two arrays of scores of the same samples, ``(N,)`` each, NaN where there is none."""
    present = np.stack([~np.isnan(left), ~np.isnan(right)])
    both = present.all(0)
    left, right = left[both], right[both]
    difference = left - right
    n = len(difference)
    better = difference * info.sign
    wins, losses = int((better > 0).sum()), int((better < 0).sum())
    return Comparison(
        a=a,
        b=b,
        by=info.name,
        direction=info.direction,
        n=n,
        unpaired=int(present.any(0).sum()) - n,
        mean_a=float(left.mean()) if n else nan,
        mean_b=float(right.mean()) if n else nan,
        difference=estimate_mean(difference, confidence, seed),
        median_difference=float(np.median(difference)) if n else nan,
        p=signed_rank_p(difference),
        wins=wins,
        losses=losses,
        ties=n - wins - losses,
        win_rate=(wins + (n - wins - losses) / 2) / n if n else nan,
    )


def compare_all(
    results: ScoredSelection, a: str, others: Iterable[str] | None, by: str, confidence: float, seed: int
) -> Comparisons:
    """Compare a method with several, see `Results.compare_all`."""
    a = results.method_named(a)
    names = [name for name in results.select(methods=others).methods if others is not None or name != a]
    if not names:
        raise AnalysisError(f"there is no other method to compare {a} with")
    return Comparisons(a, by, adjust([compare(results, a, b, by, confidence, seed) for b in names]))


def adjust(pairs: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Adjust the p-values of several comparisons for their number."""
    adjusted = holm([pair.p for pair in pairs])
    tests = sum(isfinite(p) for p in adjusted)
    return tuple(replace(pair, p=p, tests=tests) for pair, p in zip(pairs, adjusted, strict=True))


def _table(pairs: Iterable[Comparison], p: str) -> Table:
    rows = [
        [
            pair.a,
            pair.b,
            str(pair.n),
            number(pair.mean_a),
            number(pair.mean_b),
            f"{number(pair.difference.mean)} [{number(pair.difference.low)}, {number(pair.difference.high)}]",
            p_value(pair.p),
            f"{pair.win_rate:.0%}" if isfinite(pair.win_rate) else "-",
            f"{pair.wins}/{pair.ties}/{pair.losses}",
        ]
        for pair in pairs
    ]
    return Table(["a", "b", "n", "mean a", "mean b", "a - b", p, "win rate", "won/tied/lost"], rows, words=2)
