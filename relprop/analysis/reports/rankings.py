"""Rankings of single samples: the best and the worst of a method, and those that failed."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Literal

import numpy as np

from relprop.analysis.records import AnalysisError, Failure, Failures, Ranked, Ranking
from relprop.store import State

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection


UNCLIPPED = {
    "gae": ("unclipped", "contrastiveness_raw"),
    "local_consistency": ("unclipped",),
    "contrastiveness": ("contrastiveness_raw",),
}
"""What a score is before it is cut off at 0 and 1: it puts those in order that are equal then."""


def rank(results: ScoredSelection, k: int, method: str | None, by: str, order: Literal["best", "worst"]) -> Ranking:
    """Return the k best or worst samples of a method, those without a score left out."""
    if k < 1:
        raise AnalysisError(f"at least one sample is ranked, not {k}")
    chosen = results if method is None else results[method]
    values, samples = chosen.score(by), chosen.samples
    (name,) = chosen.methods
    columns, turn = chosen.scores(), -1 if order == "best" else 1
    keys = [values * chosen.score_info[by].sign, *(columns[key] for key in UNCLIPPED.get(by, ()) if key in columns)]
    # Of what is equal then the first in the data set comes first, in either order.
    places = np.lexsort((samples.index, *(key * turn for key in reversed(keys))))
    places = places[~np.isnan(values[places])][:k]
    entries = (
        Ranked(
            int(samples.index[p]),
            str(samples.name[p]),
            int(samples.label[p]),
            int(samples.target[p]),
            float(values[p]),
            *(float(columns[key][p]) if key in columns else nan for key in ("local_consistency", "contrastiveness")),
        )
        for p in places
    )
    ties = int((values == values[places[-1]]).sum()) if len(places) else 0
    return Ranking(name, by, order, tuple(entries), ties)


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
