"""Efficiency of several workers: measured with one and two here, and simulated for more from measured times of shards.

Workers take the next shard as soon as they are free: list scheduling. What does not shrink with their number, start and
join, is what a run of one worker took beside its shards.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from unittest.mock import patch

from tqdm import tqdm

import relprop
import relprop.engines
from benchmarks.conditions import Conditions, ConditionsError
from benchmarks.records.tables import markdown_table
from benchmarks.runs.synthetic import preparation, write_pictures
from benchmarks.speed.trials import Trial
from relprop.engines.shards import EACH, MOST

SIDE = 64
SIMULATED = (1, 2, 8, 64, 512)
UNIT = 1
"""Mosaics in a unit: a shard has one of them at least."""


@dataclass(frozen=True)
class WorkersRow:
    """A run with so many workers.

    Attributes
    ----------
    workers, threads
        Their number, and PyTorch's threads in each.
    samples, shards
        What was run, or simulated.
    kind
        ``measured`` or ``simulated``.
    seconds
        Of the run.
    efficiency
        The seconds of one worker with one thread over the seconds of all threads of these, for as many samples.
    """

    KEYS: ClassVar = ("workers", "threads", "samples", "kind")

    workers: int
    threads: int
    samples: int
    shards: int
    kind: str
    seconds: float
    efficiency: float


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last shard is done, if each worker takes the next one as soon as it is free.

    Examples
    --------
    >>> makespan([3, 1, 1, 1], 2)
    3.0
    """
    free = [0.0] * workers
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def plan_shards(samples: int, workers: int) -> list[int]:
    """Return the samples of each shard, cut as `relprop.engines` cuts a run of units of one mosaic."""
    units = -(-samples // (4 * UNIT))
    parts = max(1, min(units, EACH * workers, MOST))
    return [4 * UNIT * (units // parts + (part < units % parts)) for part in range(parts)]


def measure_workers(
    model: str, samples: int, simulated: int, processes: Sequence[int], conditions: Conditions
) -> list[WorkersRow]:
    """Evaluate small pictures with several numbers of workers, and simulate these and more.

    Beside workers of one thread, one worker is measured that has as many threads as the most workers.

    Parameters
    ----------
    model
        A timm model that takes pictures of 64 pixels.
    samples
        Pictures of the measured runs, a multiple of 4.
    simulated
        Samples of the run that is simulated for many workers.
    processes
        Numbers of workers that are measured, 1 among them.
    conditions
        One thread, of which the shards are measured.

    Raises
    ------
    ConditionsError
        There is no run of one worker to compare with.
    """
    if 1 not in processes:
        raise ConditionsError("--processes: efficiency is over that of one worker, give 1 too")
    rows = []
    with TemporaryDirectory() as made:
        folder = Path(made)
        pictures = write_pictures(folder / "pictures", samples, SIDE)
        subject, _ = Trial(model, 8, SIDE).make(conditions)
        prepare = preparation(SIDE)
        measured = {}
        cases = dict.fromkeys([*((count, 1) for count in processes), (1, max(processes))])
        for count, threads in tqdm(cases, "workers", unit="run", disable=None):
            with patch.dict(os.environ, OMP_NUM_THREADS=str(threads)):  # what workers obey
                start = time.perf_counter()
                relprop.engines.evaluate(
                    subject, pictures, ["abslrp"], folder / f"{count}-{threads}.h5",
                    processes=count, transform=prepare, unit=UNIT, progress=False,
                )  # fmt: skip
                measured[count, threads] = time.perf_counter() - start
        sizes = plan_shards(samples, max(processes))
        shards = []
        for part in range(-1, len(sizes)):  # the first is done twice: the first time captures the model
            start = time.perf_counter()
            relprop.evaluate(
                subject, pictures, ["abslrp"], folder / f"shard{part}.h5",
                transform=prepare, unit=UNIT, progress=False, shard=(max(0, part), len(sizes)),
            )  # fmt: skip
            shards.append(time.perf_counter() - start)
        each = [seconds / size for seconds, size in zip(shards[1:], sizes, strict=True)]
    one = measured[1, 1]
    fixed = max(0.0, one - sum(_times(each, plan_shards(samples, 1))))
    for (count, threads), seconds in measured.items():
        rows.append(_row(count, threads, samples, "measured", seconds, one))
        if threads == 1:
            rows.append(_simulate(count, samples, each, fixed))
    return rows + [_simulate(count, simulated, each, fixed) for count in SIMULATED]


def _times(each: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Return seconds of shards of these sizes, with the seconds a sample of those that were measured, in turn."""
    return [size * each[place % len(each)] for place, size in enumerate(sizes)]


def _simulate(workers: int, samples: int, each: Sequence[float], fixed: float) -> WorkersRow:
    one, all_of_them = (fixed + makespan(_times(each, plan_shards(samples, n)), n) for n in (1, workers))
    return _row(workers, 1, samples, "simulated", all_of_them, one)


def _row(workers: int, threads: int, samples: int, kind: str, seconds: float, one: float) -> WorkersRow:
    shards, efficiency = len(plan_shards(samples, workers)), one / (workers * threads * seconds)
    return WorkersRow(workers, threads, samples, shards, kind, seconds, efficiency)


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table of recorded rows."""
    lines = [
        [
            f"{int(row['samples']):,}",
            row["workers"],
            row["threads"],
            row["shards"],
            row["kind"],
            f"{float(row['seconds']):,.1f}",
            f"{float(row['efficiency']):.2f}",
        ]
        for row in rows
    ]
    return markdown_table([["samples", "workers", "threads", "shards", "", "seconds", "efficiency"], *lines], 2)
