"""Confidence intervals of means and paired tests, as functions of arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.extras import extra

CONFIDENCE = 0.95
RESAMPLES = 9999
LARGE = 5000
"""With more values than these an interval is Student's: both agree by then, and BCa takes the square of the time."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and where it may lie.

    Parameters
    ----------
    mean : float
        NaN without values.
    low, high : float
        Ends of the interval; NaN where there is none.
    n : int
        How many values there were, NaN left out.
    interval : str
        How the interval was found, ``"BCa"``, ``"percentile"`` or ``"t"``; or why there is none.
    """

    mean: float
    low: float
    high: float
    n: int
    interval: str


def estimate_mean(
    values: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Estimate a mean with a bootstrap confidence interval.

    Parameters
    ----------
    values : array_like
        ``(N,)``; NaN are left out, the rest taken as independent.
    confidence : float
        Of the interval, in (0, 1).
    seed : int
        Of the resampling: the same seed and values give the same interval.
    resamples : int
        How often the values are drawn again.

    Returns
    -------
    Estimate
        Bias-corrected and accelerated (Efron 1987, as SciPy has it). Fewer than three values, or all of them equal,
        say nothing of their spread, so there is no interval. Where BCa is undefined the percentiles are taken.
    """
    found = np.asarray(values, np.float64)
    found = found[~np.isnan(found)]
    n = len(found)
    if n == 0:
        return Estimate(nan, nan, nan, 0, "no values")
    mean = float(found.mean())
    if n < 3:
        return Estimate(mean, nan, nan, n, "too few values")
    if np.ptp(found) == 0:
        return Estimate(float(found[0]), nan, nan, n, "all values are equal")
    with extra("analysis", "a confidence interval"):
        from scipy import stats
    if n > LARGE:
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * found.std(ddof=1) / np.sqrt(n))
        return Estimate(mean, mean - half, mean + half, n, "t")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a degenerate distribution, which the result shows
            ends = stats.bootstrap(
                (found,),
                np.mean,
                confidence_level=confidence,
                n_resamples=resamples,
                method=method,
                batch=max(1, 2_000_000 // n),
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(ends).all():
            break
    return Estimate(mean, float(ends.low), float(ends.high), n, method)


def signed_rank_p(differences: ArrayLike) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; zeros are left out, as Wilcoxon did.

    Parameters
    ----------
    differences : array_like
        ``(N,)``, without NaN.

    Returns
    -------
    float
        NaN without differences, 1 where all are zero.
    """
    found = np.asarray(differences, np.float64)
    if not len(found):
        return nan
    if not found.any():
        return 1.0
    with extra("analysis", "Wilcoxon's test"):
        from scipy import stats
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few values: the p-value is large, and says so itself
        return float(stats.wilcoxon(found[found != 0]).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests for their number (Holm 1979); NaN is no test and stays.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p: NDArray[np.float64] = np.asarray(p_values, np.float64)
    adjusted = p.copy()
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return [float(value) for value in adjusted]
