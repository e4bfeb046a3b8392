"""Comparisons of one method under two models: the same samples of two files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from relprop.analysis.records import AnalysisError
from relprop.analysis.reports.comparisons import Comparisons, adjust, compare_scores

if TYPE_CHECKING:
    from relprop.analysis.scores import ScoredSelection


def compare_runs(
    first: ScoredSelection,
    second: ScoredSelection,
    methods: Iterable[str] | None,
    by: str,
    confidence: float,
    seed: int,
) -> Comparisons:
    """Compare methods of two runs on the samples of both, see `Results.compare_runs`."""
    a, b = _names_of_runs(first, second)
    names = list(first.methods) if methods is None else list(first.select(methods=methods).methods)
    names = [name for name in names if name in second.methods]
    if not names:
        raise AnalysisError(
            f"no method is in both files: {first.path} has {', '.join(first.methods) or 'none'}, {second.path} has "
            f"{', '.join(second.methods) or 'none'}"
        )
    left, right = _same_samples(first, second)
    first, second = first[left], second[right]
    pairs = [
        compare_scores(
            f"{name}, {a}",
            f"{name}, {b}",
            first.score(by, name),
            second.score(by, name),
            first.score_info[by],
            confidence,
            seed,
        )
        for name in names
    ]
    return Comparisons(a, by, adjust(pairs))


def _names_of_runs(*runs: ScoredSelection) -> tuple[str, str]:
    """Name two runs by their models, or by their files where the model is the same."""
    models = [str((run.config.get("model") or {}).get("name", "")) for run in runs]
    a, b = models if len(set(models)) == 2 and all(models) else [run.path.name for run in runs]
    return (a, b) if a != b else (str(runs[0].path), str(runs[1].path))


def _same_samples(first: ScoredSelection, second: ScoredSelection) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the places of the samples that both have, ``(N,)`` each: by name, or by index where names repeat."""
    keys = []
    for attribute in ("name", "index"):
        keys = [getattr(run.samples, attribute) for run in (first, second)]
        if all(len(set(key.tolist())) == len(key) and all(value != "" for value in key.tolist()) for key in keys):
            break
    _, left, right = np.intersect1d(keys[0].astype(str), keys[1].astype(str), return_indices=True)
    if not len(left):
        raise AnalysisError(f"{first.path} and {second.path} have no sample in common: they are of other data")
    return left, right
