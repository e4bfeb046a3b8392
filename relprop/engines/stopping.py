"""Runs that are spread and end early: worked on in stages, each twice as long, until the first samples say enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.engines.worker import Shard
from relprop.evaluation.stopping import STEP, Judge, Scores, done_scores
from relprop.store import method_names, open_evaluation, read_planned


def work_until(
    judge: Judge,
    shards: Sequence[Shard],
    order: NDArray[np.int64],
    unit: int,
    work: Callable[[Sequence[Shard]], None],
) -> int:
    """Work off shards of the first samples, then of more of them, until the judge says to stop.

    A stage ends with a whole unit, so that its scores are those of the run that is not stopped. What is judged does not
    depend on how long stages are.

    Parameters
    ----------
    judge : Judge
        Of the run.
    shards : sequence of Shard
        All of them.
    order : ndarray
        Samples in their order, ``(N,)``.
    unit : int
        Mosaics per unit.
    work : callable
        Works off shards.

    Returns
    -------
    int
        How many samples are done.
    """
    whole = 4 * unit
    length = max(STEP, whole * len(shards), *(_planned(shard) for shard in shards))
    while True:
        length = min(len(order), whole * math.ceil(length / whole))
        work([replace(shard, limit=length) for shard in shards])
        if judge.look(order, length, _scores_of(shards, judge.rule.score)) or length == len(order):
            return length
        length *= 2


def _planned(shard: Shard) -> int:
    """Return how many samples the run had when a shard was last worked on."""
    if not shard.path.exists():
        return 0
    with open_evaluation(shard.path) as file:
        return read_planned(file) or 0


def _scores_of(shards: Sequence[Shard], score: str) -> Scores:
    """Return how the scores of finished shards are read."""

    def read(samples: NDArray[np.int64]) -> Iterable[NDArray[Any]]:
        found: dict[str, list[NDArray[Any]]] = {}
        indices = []
        for shard in shards:
            with open_evaluation(shard.path) as file:
                index = file["sample"][:]
                rows = np.flatnonzero(np.isin(index, samples))
                indices.append(index[rows])
                for name in method_names(file):
                    group = file["methods"][name]
                    found.setdefault(name, []).extend([group[score][:][rows], group["state"][:][rows]])
        ranks = np.argsort(np.concatenate(indices))
        for columns in found.values():
            yield done_scores(np.concatenate(columns[::2])[ranks], np.concatenate(columns[1::2])[ranks])

    return read
