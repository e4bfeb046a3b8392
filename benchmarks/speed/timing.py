"""Jobs take turns in one process, so that a ratio compares two times of the same moment.

Wall-clock time on a shared machine is noise, and so is a ratio of two numbers measured minutes apart. Every round
gives one ratio, and the median over the rounds is reported. The processor's own seconds (all threads) are there beside
it, as they suffer less from neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tqdm import trange

from benchmarks.conditions import Conditions
from benchmarks.speed.jobs import Job


@dataclass(frozen=True)
class Timing:
    """How long one job took in one round."""

    wall: float
    processor: float


Rounds = Sequence[Mapping[str, Timing]]
"""What each round found, by job."""


def take_turns(jobs: Mapping[str, Job], repeats: int, conditions: Conditions, what: str) -> Rounds:
    """Run all jobs in turns.

    Parameters
    ----------
    jobs
        By name.
    repeats
        Rounds. One more comes first and isn't counted: it captures.
    conditions
        In force already.
    what
        For the progress bar.
    """
    rounds = [
        {name: clock(job, conditions) for name, job in jobs.items()}
        for _ in trange(repeats + 1, desc=what, unit="round", disable=None, leave=False)
    ]
    return rounds[1:]


def clock(job: Job, conditions: Conditions) -> Timing:
    """Run a job once, and time it until the device is done."""
    conditions.synchronise()
    wall, processor = time.perf_counter(), time.process_time()
    job()
    conditions.synchronise()
    return Timing(time.perf_counter() - wall, time.process_time() - processor)


def seconds(rounds: Rounds, job: str) -> float:
    """Return the median of a job's wall clock."""
    return median(one[job].wall for one in rounds)


def ratios(rounds: Rounds, job: str, other: str) -> list[float]:
    """Return how much longer than another a job took, in each round."""
    return [one[job].wall / one[other].wall for one in rounds]
