"""Scoring one method: GAE by this library, and metrics of Quantus that need as many maps of it and as many passes.

Of a picture GAE takes twenty maps, and twenty forward and backward passes. Of Quantus, PixelFlipping in twelve steps
takes one map and twelve forward passes, and AvgSensitivity over nineteen disturbed pictures a map of each and two
forward passes. All make the maps with `relprop.explain`, eight at once. The authors' protocol is the one of their
released code, as this library computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import relprop
from benchmarks.conditions import Conditions, ConditionsError
from benchmarks.records.tables import markdown_table
from benchmarks.speed.jobs import Job, predict
from benchmarks.speed.timing import ratios, seconds, take_turns
from benchmarks.speed.trials import Trial
from relprop.extras import extra

DISTURBED = 19
BATCH = 8
"""Maps made at once."""
GAE, LAST, RELEASED, QUANTUS = "GAE", "GAE, channels last", "GAE, protocol released", "Quantus"


@dataclass(frozen=True)
class ThroughputRow:
    """One way of scoring the default rule set.

    Attributes
    ----------
    model, samples, repeats
        What was scored, in so many rounds.
    scores
        By what.
    seconds
        A sample, the median of the rounds.
    over_gae
        Over the seconds of GAE in the same round, the median.
    lowest, highest
        Its extremes.
    difference
        Largest difference of a score from that of GAE, where it is the same one; infinite if only one is undefined.
    """

    KEYS: ClassVar = ("model", "scores")

    model: str
    samples: int
    repeats: int
    scores: str
    seconds: float
    over_gae: float
    lowest: float
    highest: float
    difference: float | None


def measure_throughput(name: str, samples: int, repeats: int, conditions: Conditions) -> list[ThroughputRow]:
    """Score random pictures in each way, in turns.

    Parameters
    ----------
    name
        A timm model.
    samples
        Pictures, a multiple of 8.
    repeats
        Rounds, after one that captures.
    conditions
        In force already.

    Raises
    ------
    ConditionsError
        It is no such number.
    MissingExtraError
        Quantus is not installed.
    """
    if samples % BATCH:
        raise ConditionsError(f"--samples {samples}: batches are of {BATCH} pictures, give a multiple of it")
    model, x = Trial(name, samples).make(conditions)
    last = deepcopy(model).to(memory_format=torch.channels_last)
    target = predict(model, x)
    scores: dict[str, NDArray[Any]] = {}
    score = partial(_gae, target, scores)
    jobs: Mapping[str, Job] = {
        GAE: score(GAE, model, x),
        LAST: score(LAST, last, x.to(memory_format=torch.channels_last)),
        RELEASED: score(RELEASED, model, x, protocol="released"),
        QUANTUS: _quantus(model, x, target),
    }
    rounds = take_turns(jobs, repeats, conditions, name)
    rows = []
    for which in jobs:
        each, over = seconds(rounds, which) / samples, ratios(rounds, which, GAE)
        difference = _difference(scores[which], scores[GAE]) if which == LAST else None
        rows.append(ThroughputRow(name, samples, repeats, which, each, median(over), min(over), max(over), difference))
    return rows


def _gae(
    target: Tensor, scores: dict[str, NDArray[Any]], name: str, model: nn.Module, x: Tensor, **options: Any
) -> Job:
    """Return what scores by GAE, and keeps the scores under a name."""
    data = list(zip(x, target.tolist(), strict=True))

    def run() -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder, "run.h5")
            relprop.evaluate(model, data, ["abslrp"], path, batch_size=BATCH, progress=False, **options)
            with relprop.Results(path) as found:
                scores[name] = np.asarray(found["abslrp"].scores()["gae"])

    return run


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the largest difference of two arrays of scores ``(N,)``."""
    undefined = np.isnan(a)
    if (undefined != np.isnan(b)).any():
        return float("inf")
    return float(np.abs(a - b)[~undefined].max(initial=0))


def _quantus(model: nn.Module, x: Tensor, target: Tensor) -> Job:
    """Return what scores by PixelFlipping and AvgSensitivity."""
    with extra("test", "scoring by Quantus"):
        quantus: Any = import_module("quantus")  # its type has no metrics
    explainer = relprop.Explainer(model, batch_size=BATCH)

    def explain(model: object, inputs: NDArray[Any], targets: NDArray[Any], **_: Any) -> NDArray[Any]:
        found = explainer(torch.from_numpy(inputs), torch.from_numpy(targets))
        return found.relevance.numpy()

    quiet: Mapping[str, Any] = {"disable_warnings": True, "display_progressbar": False}
    metrics: Sequence[Callable[..., Any]] = (
        quantus.PixelFlipping(features_in_step=x[0, 0].numel() // 4, **quiet),
        quantus.AvgSensitivity(nr_samples=DISTURBED, return_nan_when_prediction_changes=True, **quiet),
    )

    def run() -> None:
        pictures, classes = x.numpy(), target.numpy()
        maps = explain(model, pictures, classes)
        for metric in metrics:
            metric(
                model=model, x_batch=pictures, y_batch=classes, a_batch=maps, explain_func=explain,
                device=str(x.device), channel_first=True, batch_size=BATCH,
            )  # fmt: skip

    return run


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table of recorded rows."""
    lines = [
        [
            row["model"],
            row["scores"],
            f"{float(row['seconds']):.2f}",
            f"{float(row['over_gae']):.2f} ({float(row['lowest']):.2f} to {float(row['highest']):.2f})",
            row["difference"] or "-",
        ]
        for row in rows
    ]
    return markdown_table([["model", "scores", "seconds a sample", "over GAE", "scores differ by"], *lines], 3)
