"""What the choices behind a map are worth: rule sets, open choices and controls, judged on real weights.

Two questions to the map of every picture. Does relevance lie on the object (COCO pictures whose main object the model
names): the share of positive relevance inside its mask, and whether the largest relevance is? Does the model depend on
it (ImageNet pictures that it classifies right): deletion, insertion and symmetric relevance gain, by squares of
`REGION` pixels, an equal part of them in each of `STEPS` steps? The differences to the default are taken picture by
picture; their 95 % intervals are bootstrapped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

import relprop
from benchmarks.quality.recognised import Recognised, recognise
from benchmarks.quality.variants import BATCH, DEFAULT, Variant, variants
from benchmarks.records.ledger import Ledger
from relprop.analysis.reports.statistics import estimate_mean
from relprop.errors import RelpropError
from relprop.metrics import energy_inside, perturbation_curves, pointing_game

STEPS, REGION = 5, 16


@dataclass(frozen=True)
class AblationRow:
    """One variant on one model: means, and of three of them the gain over the default with its interval.

    Attributes
    ----------
    objects, pictures
        How many outlined and labelled pictures the means are over.
    seconds
        Processor time.
    reason
        Why nothing was measured.
    """

    KEYS: ClassVar = ("model", "variant")

    model: str
    kind: str
    variant: str
    objects: int
    inside: float | None = None
    inside_gain: float | None = None
    inside_low: float | None = None
    inside_high: float | None = None
    pointing: float | None = None
    pointing_gain: float | None = None
    pointing_low: float | None = None
    pointing_high: float | None = None
    pictures: int = 0
    srg: float | None = None
    srg_gain: float | None = None
    srg_low: float | None = None
    srg_high: float | None = None
    deletion: float | None = None
    insertion: float | None = None
    seconds: float | None = None
    reason: str = ""


PAIRED = ("inside", "pointing", "srg")
"""Measures that are compared with the default's; more is better."""
TABLES = {"rule set": ("rule set", "control"), "`abslrp` with": ("choice",)}
"""The kinds of variants in each table of the README, by its heading."""

Measured = Mapping[str, Tensor]
"""A value per picture, by measure."""


def ablate(name: str, shared: Path, ledger: Ledger, chosen: str = "*", objects: int = 16, pictures: int = 16) -> None:
    """Add a row for every variant on one model that has none yet.

    Parameters
    ----------
    name
        A model, see `benchmarks.quality.classifiers`.
    shared
        The folder that holds ``assets/``.
    ledger
        Where the rows go.
    chosen
        Glob of the variants' names.
    objects, pictures
        How many are judged, at most.

    Raises
    ------
    DataError
        Pictures or weights aren't there.
    """
    done = {row["variant"] for row in ledger.rows() if row["model"] == name}
    recognised = recognise(name, shared, objects, pictures)
    listed = variants(*recognised.setting.bounds)
    missing = [variant for variant in listed if fnmatchcase(variant.name, chosen) and variant.name not in done]
    if not missing:
        return
    # Everything is compared with it picture by picture, so a run that goes on needs its values again.
    assert listed[0].name == DEFAULT
    start = time.process_time()
    default, spent = judge(listed[0], recognised), time.process_time() - start
    sites = relprop.Explainer(recognised.model).plan(recognised.labelled.x[:BATCH]).sites.values()
    for variant in tqdm(missing, name, unit="variant", disable=None):
        if variant.name == DEFAULT:
            ledger.append(_row(variant, recognised, default, default, spent))
            continue
        if not variant.changes(sites):
            ledger.append(AblationRow(name, variant.kind, variant.name, 0, reason="no such operation in this model"))
            continue
        start = time.process_time()
        try:
            measured = judge(variant, recognised)
        except (RelpropError, NotImplementedError) as error:
            ledger.append(AblationRow(name, variant.kind, variant.name, 0, reason=str(error)))
        else:
            ledger.append(_row(variant, recognised, measured, default, time.process_time() - start))


def judge(variant: Variant, recognised: Recognised) -> Measured:
    """Measure a variant on every picture."""
    objects, labelled = recognised.objects, recognised.labelled
    assert objects.masks is not None

    def watched(x: Tensor) -> Tensor:  # twice as fast on a processor
        return recognised.model(x.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    on_objects, relevance = variant.maps(recognised, objects), variant.maps(recognised, labelled)
    parts = [
        perturbation_curves(
            recognised.model, *(t[k : k + BATCH] for t in (labelled.x, relevance, labelled.target)),
            steps=STEPS, region=REGION,
        )
        for k in range(0, len(relevance), BATCH)
    ]  # fmt: skip
    return {
        "inside": energy_inside(on_objects, objects.masks).value,
        "pointing": pointing_game(on_objects, objects.masks).value,
        "srg": torch.cat([curves.relevance_gain for curves in parts]),
        "deletion": torch.cat([curves.deletion for curves in parts]),
        "insertion": torch.cat([curves.insertion for curves in parts]),
    }


def _row(
    variant: Variant, recognised: Recognised, measured: Measured, default: Measured, seconds: float
) -> AblationRow:
    values: dict[str, Any] = {measure: float(value.double().mean()) for measure, value in measured.items()}
    for measure in PAIRED:
        gain, low, high = paired_interval(measured[measure], default[measure])
        values |= {f"{measure}_gain": gain, f"{measure}_low": low, f"{measure}_high": high}
    return AblationRow(
        recognised.name, variant.kind, variant.name, objects=len(measured["inside"]), pictures=len(measured["srg"]),
        seconds=seconds, **values,
    )  # fmt: skip


def paired_interval(values: Tensor, reference: Tensor) -> tuple[float, float, float]:
    """Return the mean difference of pairs, and its bootstrapped 95 % interval; NaN of fewer than three."""
    found = estimate_mean((values.double() - reference.double()).numpy())
    if found.interval == "all values are equal":
        return found.mean, found.mean, found.mean
    return found.mean, found.low, found.high


def tables(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the tables of the README, an empty line between them."""
    return "\n\n".join(markdown(rows, kinds, heading) for heading, kinds in TABLES.items())


def markdown(rows: Sequence[Mapping[str, str]], kinds: Sequence[str], heading: str) -> str:
    """Return a table of variants by models: share inside, then SRG, with an arrow where it clearly leaves the default.

    Clearly means that the interval of the difference does not hold zero.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["variant"], row["model"]): _cell(row) for row in rows}
    names = dict.fromkeys(row["variant"] for kind in kinds for row in rows if row["kind"] == kind)
    lines = [[heading, *models], ["---"] * (len(models) + 1)]
    lines += [[name, *(cells.get((name, model), "") for model in models)] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Mapping[str, str]) -> str:
    if row["reason"]:
        return "-"
    return " ".join(_marked(row, measure) for measure in ("inside", "srg"))


def _marked(row: Mapping[str, str], measure: str) -> str:
    low, high = float(row[f"{measure}_low"]), float(row[f"{measure}_high"])
    return f"{float(row[measure]):.2f}{'↑' if low > 0 else '↓' if high < 0 else ''}"
