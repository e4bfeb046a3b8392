"""Comparing the time and memory of explanations with one plain input gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from benchmarks.conditions import Conditions
from benchmarks.records.tables import markdown_table
from benchmarks.speed.jobs import FORWARD, GRADIENT, JOBS, WRONG, Maker, peer_jobs
from benchmarks.speed.memory import Peak, measure_peaks, over
from benchmarks.speed.timing import Rounds, ratios, seconds, take_turns
from benchmarks.speed.trials import Trial


@dataclass(frozen=True)
class SpeedRow:
    """One job of one model: medians over the rounds.

    Attributes
    ----------
    model, job, batch, repeats
        What was measured, and how many rounds.
    seconds
        Wall clock, for the batch.
    over_gradient, over_forward
        Ratio to the gradient and to the forward pass of the same round.
    lowest, highest
        The extreme ratios to the gradient.
    processor_over_gradient
        The same ratio, of processor seconds.
    process_mib
        Peak memory of a process that does nothing else.
    peak_mib
        Of that, what the job itself allocates, see `benchmarks.speed.memory.Peak`.
    peak_over_gradient
        Its ratio to the gradient's.
    first_seconds
        Wall clock of the first call in such a process, capture included.
    """

    KEYS: ClassVar = ("model", "job", "batch")

    model: str
    job: str
    batch: int
    repeats: int
    seconds: float
    over_gradient: float
    lowest: float
    highest: float
    over_forward: float
    processor_over_gradient: float
    process_mib: float | None = None
    peak_mib: float | None = None
    peak_over_gradient: float | None = None
    first_seconds: float | None = None


def compare_speed(
    trial: Trial, repeats: int, conditions: Conditions, jobs: Mapping[str, Maker] = JOBS, *, peers: bool = False
) -> list[SpeedRow]:
    """Measure jobs on one model: their time in turns, their memory one by one.

    Parameters
    ----------
    trial
        Model and pictures.
    repeats
        Rounds.
    conditions
        In force already.
    jobs
        By name; the forward pass and the gradient are among them.
    peers
        Whether other libraries take part.

    Raises
    ------
    TrialError
        The model can't be made.
    MissingExtraError
        If a peer is not installed.
    """
    model, x = trial.make(conditions)
    makers = {**jobs, **(peer_jobs(model, x) if peers else {})}
    rounds = take_turns({job: make(model, x) for job, make in makers.items()}, repeats, conditions, trial.model)
    del model, x
    peaks = measure_peaks(trial, makers, conditions)
    return [_row(trial, job, rounds, peaks) for job in makers]


def _row(trial: Trial, job: str, rounds: Rounds, peaks: Mapping[str, Peak | None]) -> SpeedRow:
    over_gradient = ratios(rounds, job, GRADIENT)
    peak = peaks[job]
    return SpeedRow(
        trial.model, job, trial.batch, len(rounds),
        seconds=seconds(rounds, job),
        over_gradient=median(over_gradient),
        lowest=min(over_gradient),
        highest=max(over_gradient),
        over_forward=median(ratios(rounds, job, FORWARD)),
        processor_over_gradient=median(one[job].processor / one[GRADIENT].processor for one in rounds),
        process_mib=peak.process_mib if peak else None,
        peak_mib=peak.tensors_mib if peak else None,
        peak_over_gradient=over(peak, peaks[GRADIENT]),
        first_seconds=peak.first_seconds if peak else None,
    )  # fmt: skip


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table of models and jobs: time over one plain input gradient's, then memory over it."""
    models = dict.fromkeys((row["model"], row["batch"]) for row in rows)
    jobs = dict.fromkeys(row["job"].removesuffix(WRONG) for row in rows if row["job"] not in (FORWARD, GRADIENT))
    lines = [["model, batch", "gradient, s", *jobs]]
    for model, batch in models:
        found = {row["job"]: row for row in rows if (row["model"], row["batch"]) == (model, batch)}
        ratios = (_ratios(found.get(job), found.get(job + WRONG)) for job in jobs)
        lines.append([f"{model}, {batch}", f"{float(found[GRADIENT]['seconds']):.2f}", *ratios])
    return markdown_table(lines, numbers=len(jobs) + 1)


def _ratios(row: Mapping[str, str] | None, wrong: Mapping[str, str] | None) -> str:
    found = row or wrong
    if found is None:
        return "-"
    memory = f" / {float(found['peak_over_gradient']):.2f}" if found["peak_over_gradient"] else ""
    return f"{float(found['over_gradient']):.2f}{memory}{WRONG if row is None else ''}"
