"""Single samples: the best and the worst of a method, and what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from relprop.analysis.records import AnalysisError, Failure, Failures, Ranked, Ranking
from relprop.store import State

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection


def rank(results: ScoredSelection, k: int, method: str | None, by: str, order: Literal["best", "worst"]) -> Ranking:
    """Return the k best or worst samples of a method, those without a score left out."""
    if k < 1:
        raise AnalysisError(f"at least one sample is ranked, not {k}")
    chosen = results if method is None else results[method]
    values, samples = chosen.score(by), chosen.samples
    (name,) = chosen.methods
    # A stable sort of the negative: of equal values the first in the data set comes first, in either order.
    rising = values * chosen.score_info[by].sign * (-1 if order == "best" else 1)
    by_index = np.argsort(samples.index, kind="stable")
    places = by_index[np.argsort(rising[by_index], kind="stable")]
    entries = (
        Ranked(
            int(samples.index[p]), str(samples.name[p]), int(samples.label[p]), int(samples.target[p]), float(values[p])
        )
        for p in places[~np.isnan(values[places])][:k]
    )
    return Ranking(name, by, order, tuple(entries))


def list_failures(results: ScoredSelection) -> Failures:
    """List what failed, sample by sample: in the masking run first, then under methods."""
    samples = results.samples
    found = [
        Failure(int(samples.index[row]), str(samples.name[row]), "", str(samples.message[row]))
        for row in np.flatnonzero(samples.state == State.FAILED)
    ]
    for method in results.methods:
        messages = results.messages(method)
        found += [
            Failure(int(samples.index[row]), str(samples.name[row]), method, str(messages[row]))
            for row in np.flatnonzero(results.state(method) == State.FAILED)
        ]
    return Failures(tuple(sorted(found, key=lambda failure: (failure.sample, failure.method))))
