"""A data set scored with GAE: rule sets, other methods and controls, on real weights and labelled pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from tqdm import tqdm

import relprop
from benchmarks.quality.coco import DataError
from benchmarks.quality.recognised import Half, labelled_pictures, setting_of
from benchmarks.quality.variants import Variant
from benchmarks.records.tables import markdown_table
from relprop.analysis.reports.summaries import MethodSummary
from relprop.evaluation.methods import CONTROLS
from relprop.models import load_classifier

FAST = ("abslrp", "epsilon-plus", "input-times-gradient", "grad-cam.GradCAM", *CONTROLS)
SLOW = ("abslrp-released", "captum.IntegratedGradients:n_steps=8")
OF_TRANSFORMERS = ("attention-rollout",)


@dataclass(frozen=True)
class GaeRow:
    """One method on one model: means over all samples with 95 % intervals (bootstrap, BCa).

    Attributes
    ----------
    samples, failed
        How many pictures have scores, and on how many the method failed.
    gae, local_consistency, contrastiveness
        In [0, 1], see `relprop.gae`.
    unclipped
        Faithfulness and robustness before their sum is clipped to the local consistency.
    contrastiveness_raw
        Before clipping.
    seconds
        Of all 20 maps of a sample.
    """

    KEYS: ClassVar = ("model", "method")

    model: str
    method: str
    samples: int
    failed: int
    gae: float
    gae_low: float
    gae_high: float
    local_consistency: float
    local_consistency_low: float
    local_consistency_high: float
    contrastiveness: float
    contrastiveness_low: float
    contrastiveness_high: float
    unclipped: float
    contrastiveness_raw: float
    seconds: float


def score(
    name: str,
    shared: Path,
    pictures: int,
    slow: bool,
    files: Path,
    finalists: Sequence[Variant] = (),
    half: Half | None = None,
) -> list[GaeRow]:
    """Evaluate a model, or go on with a run that was broken off, and return a row for each method.

    Parameters
    ----------
    name
        A model, see `benchmarks.quality.classifiers`.
    shared
        The folder that holds ``assets/``.
    pictures
        How many are scored.
    slow
        Whether those that take longest are among them.
    files
        Folder for the HDF5 files of the runs.
    finalists
        What is scored beside the controls, in place of the usual methods.
    half
        The half of the pictures that is scored; by default both.

    Raises
    ------
    DataError
        Pictures or weights aren't there, or there is no such model.
    """
    setting = setting_of(name)
    chosen = [(file, target) for _, file, target in labelled_pictures(shared, half)[:pictures]]
    if len(chosen) < pictures:
        raise DataError(f"there are {len(chosen)} labelled pictures, not {pictures}")
    classifier = load_classifier(name, shared / "assets" / "weights" / setting.weights)
    path = files / f"{name}-{'' if half is None else f'{half}-'}{pictures}pictures.h5"
    files.mkdir(parents=True, exist_ok=True)
    names = [*FAST, *(SLOW if slow else ()), *(OF_TRANSFORMERS if "vit" in name else ())]
    assert isinstance(classifier.model, nn.Module)
    methods: dict[str, Any] = {method: method for method in (CONTROLS if finalists else names)}
    methods = {one.name: one.method(classifier.model, setting) for one in finalists} | methods
    with tqdm(desc=name, unit="sample", disable=None) as bar:

        def show(done: float, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        relprop.evaluate(
            classifier, chosen, methods, path, relevance="map", resume=True, progress=show,
            data_name=f"{pictures} labelled pictures",
        )  # fmt: skip
    with relprop.Results(path) as results:
        return [_row(name, found) for found in results.summary().methods]


def _row(model: str, found: MethodSummary) -> GaeRow:
    values = {
        name + end: getattr(found.scores[name].estimate, field)
        for name in ("gae", "local_consistency", "contrastiveness")
        for end, field in (("", "mean"), ("_low", "low"), ("_high", "high"))
    }
    return GaeRow(
        model, found.method, samples=found.done, failed=found.failed, **values,
        unclipped=found.scores["unclipped"].estimate.mean,
        contrastiveness_raw=found.scores["contrastiveness_raw"].estimate.mean, seconds=found.seconds,
    )  # fmt: skip


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table of models and methods: local consistency, contrastiveness and GAE with their intervals."""
    pictures = max(int(row["samples"]) + int(row["failed"]) for row in rows)
    lines = [["model", "method", "local consistency", "contrastiveness", "GAE"]]
    model = ""
    for row in rows:
        scores = (
            _with_interval(row, *score) for score in (("local_consistency", 2), ("contrastiveness", 2), ("gae", 3))
        )
        failed = f" (failed on {row['failed']})" if int(row["failed"]) else ""
        lines.append(["" if row["model"] == model else row["model"], f"`{row['method']}`{failed}", *scores])
        model = row["model"]
    return f"Means over {pictures} pictures, with bootstrapped 95 % intervals:\n\n{markdown_table(lines)}"


def _with_interval(row: Mapping[str, str], score: str, digits: int) -> str:
    mean, *ends = (float(row[score + end]) for end in ("", "_low", "_high"))
    if isnan(mean):
        return "-"
    low, high = (f"{end:.{digits}f}" for end in ends)
    return f"{mean:.{digits}f}" if isnan(ends[0]) else f"{mean:.{digits}f} [{low}, {high}]"
