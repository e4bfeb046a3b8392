"""The result of a run that was spread, in the form of one that was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from relprop.evaluation import Evaluation, Tally
from relprop.evaluation.pipeline.standing import Standing
from relprop.evaluation.report import failed_rows, tally_of
from relprop.gae import Flag
from relprop.store import State, is_complete, method_names, open_evaluation


def read_outcome(path: Path, shards: Sequence[Evaluation], total: float) -> Evaluation:
    """Return what a joined file holds, with the seconds of its shards together and those that passed.

    Parameters
    ----------
    path : Path
        The file.
    shards : sequence of Evaluation
        What became of each shard in this run.
    total : float
        Seconds from the beginning to the end.
    """
    seconds, explaining = Counter[str](), Counter[str]()
    for shard in shards:
        seconds.update(shard.seconds)
        explaining.update(shard.explaining)
    with open_evaluation(path) as file:
        samples = file["samples"]
        states = samples["state"][:]
        failed = np.flatnonzero(states == State.FAILED)
        return Evaluation(
            path=path,
            samples=len(states),
            evaluated=sum(shard.evaluated for shard in shards),
            unreadable=len(failed),
            failure=_first_message(samples, failed),
            one_class=int(((samples["flags"][:] & Flag.ONE_CLASS) != 0).sum()),
            methods={name: _tally(file, name) for name in method_names(file)},
            seconds={**seconds, "total": total},
            explaining=dict(explaining),
            complete=is_complete(file),
        )


def add_shard(standing: Standing, path: Path) -> None:
    """Add what a finished shard holds to how a run stands."""
    with open_evaluation(path) as file:
        samples = file["samples/state"][:]
        standing.failed += int((samples == State.FAILED).sum())
        for name in method_names(file):
            group = file["methods"][name]
            states = group["state"][:]
            standing.gae[name].add(group["gae"][:][states == State.DONE])
            standing.failed += int(failed_rows(states, samples).sum())


def _tally(file: h5py.File, name: str) -> Tally:
    group = file["methods"][name]
    return tally_of(group["state"][:], file["samples/state"][:], partial(_first_message, group))


def _first_message(group: h5py.Group, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    """Return why the first of some rows ``(N,)`` failed; empty where there is none."""
    return str(group["message"].asstr()[rows[0]]) if len(rows) else ""
