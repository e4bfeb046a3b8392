"""Growth of an explanation's time and memory with the batch, the pictures and the depth of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from tqdm import tqdm

from benchmarks.conditions import Conditions
from benchmarks.speed.jobs import EXPLAIN, GRADIENT, JOBS
from benchmarks.speed.memory import measure_peaks, over
from benchmarks.speed.timing import ratios, seconds, take_turns
from benchmarks.speed.trials import Trial


@dataclass(frozen=True)
class Point:
    """Something to measure, and what is varied in it."""

    axis: str
    trial: Trial


@dataclass(frozen=True)
class ScaleRow:
    """One point: an explanation, beside one plain input gradient.

    Attributes
    ----------
    axis
        What is varied: batch, side or depth.
    model, batch, side
        What was measured; the side is the model's own where there is none.
    seconds
        Of an explanation: median, wall clock, for the batch.
    seconds_each
        The same for one picture.
    over_gradient
        Ratio to the gradient of the same round, median.
    peak_mib, peak_each_mib
        What an explanation allocates at most, see `benchmarks.speed.memory.Peak`: for the batch, and over its pictures.
    peak_over_gradient
        Its ratio to the gradient's.
    """

    KEYS: ClassVar = ("axis", "model", "batch", "side")

    axis: str
    model: str
    batch: int
    side: int | None
    seconds: float
    seconds_each: float
    over_gradient: float
    peak_mib: float | None
    peak_each_mib: float | None
    peak_over_gradient: float | None


def points(
    models: Sequence[str], batch: int, batches: Sequence[int], sides: Sequence[int], depths: Sequence[str]
) -> list[Point]:
    """List what is to be measured.

    Parameters
    ----------
    models
        Of which batch and side are varied.
    batch
        Where it isn't.
    batches, sides
        The values.
    depths
        Models that differ in depth.
    """
    return [
        *(Point("batch", Trial(model, value)) for model in models for value in batches),
        *(Point("side", Trial(model, batch, value)) for model in models for value in sides),
        *(Point("depth", Trial(model, batch)) for model in depths),
    ]


def scale(listed: Sequence[Point], repeats: int, conditions: Conditions) -> list[ScaleRow]:
    """Measure points; conditions are in force already.

    Raises
    ------
    TrialError
        A model can't be made, as one whose pictures must have another side.
    """
    return [_row(point, repeats, conditions) for point in tqdm(listed, "points", disable=None)]


def _row(point: Point, repeats: int, conditions: Conditions) -> ScaleRow:
    trial, makers = point.trial, {name: JOBS[name] for name in (GRADIENT, EXPLAIN)}
    model, x = trial.make(conditions)
    rounds = take_turns({name: make(model, x) for name, make in makers.items()}, repeats, conditions, trial.model)
    del model, x
    peaks = measure_peaks(trial, makers, conditions)
    peak = peaks[EXPLAIN]
    return ScaleRow(
        point.axis, trial.model, trial.batch, trial.side,
        seconds=seconds(rounds, EXPLAIN),
        seconds_each=seconds(rounds, EXPLAIN) / trial.batch,
        over_gradient=median(ratios(rounds, EXPLAIN, GRADIENT)),
        peak_mib=peak.tensors_mib if peak else None,
        peak_each_mib=peak.tensors_mib / trial.batch if peak else None,
        peak_over_gradient=over(peak, peaks[GRADIENT]),
    )  # fmt: skip
