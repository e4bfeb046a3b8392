"""Growth of an explanation's time and memory with the batch, the pictures and the depth of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from benchmarks.conditions import Conditions
from benchmarks.records.tables import markdown_table
from benchmarks.speed.jobs import EXPLAIN, GRADIENT, JOBS
from benchmarks.speed.memory import measure_peaks, over
from benchmarks.speed.timing import ratios, seconds, take_turns
from benchmarks.speed.trials import Trial, TrialError


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


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table of fitted exponents, a line for each series of points.

    Raises
    ------
    TrialError
        A depth is in no model's name.
    """
    series: dict[tuple[str, str], list[tuple[int, Mapping[str, str]]]] = {}
    for row in rows:
        model, value = _depth(row["model"]) if row["axis"] == "depth" else (row["model"], int(row[row["axis"]]))
        series.setdefault((row["axis"], model), []).append((value, row))
    columns = [
        "time",
        "gradient's time",
        "memory",
        "gradient's memory",
        "time over gradient's",
        "memory over gradient's",
    ]
    lines = [["", "model", "from", "to", *columns]]
    for (axis, model), found in series.items():
        values, points = zip(*sorted(found, key=lambda pair: pair[0]), strict=True)
        cells = [axis, model, str(values[0]), str(values[-1])]
        for name, ratio in (("seconds", "over_gradient"), ("peak_mib", "peak_over_gradient")):
            cells += _exponents(values, points, name, ratio)
        lines.append([*cells, *(_range(points, name) for name in ("over_gradient", "peak_over_gradient"))])
    return markdown_table(lines, len(columns) + 2)


def _depth(model: str) -> tuple[str, int]:
    """Return what models that differ in depth have in common, and the depth: layers of a ResNet, else blocks."""
    found = re.fullmatch(r"(resnet)(\d+)|(.*):depth=(\d+)", model)
    if found is None:
        raise TrialError(f"{model} does not say how deep it is, as resnet18 and NAME:depth=6 do")
    return found[1] or found[3], int(found[2] or found[4])


def _exponents(values: Sequence[int], rows: Sequence[Mapping[str, str]], name: str, ratio: str) -> list[str]:
    """Return the slopes of lines through logarithms, of an explanation and of the gradient: 1 where cost is linear."""
    if len(rows) < 2 or not all(row[name] and row[ratio] for row in rows):
        return ["-", "-"]
    ours = np.array([float(row[name]) for row in rows])
    theirs = ours / [float(row[ratio]) for row in rows]
    return [f"{np.polyfit(np.log(values), np.log(found), 1)[0]:.2f}" for found in (ours, theirs)]


def _range(rows: Sequence[Mapping[str, str]], name: str) -> str:
    """Return the ratio at the first point and at the last."""
    first, last = rows[0][name], rows[-1][name]
    return f"{float(first):.2f} to {float(last):.2f}" if first and last else "-"
