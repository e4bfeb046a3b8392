"""The cost of scoring a data set: samples a second by phase, size of the file, and GAE over its own floor.

The floor of GAE are twenty explanations and twenty forward and backward passes a sample: they are run alone, on batches
of the same size, in turns with the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import trange

import relprop
from benchmarks.conditions import Conditions
from benchmarks.quality.classifiers import CLASSIFIERS
from benchmarks.quality.recognised import labelled_pictures
from benchmarks.runs.synthetic import preparation, write_pictures
from benchmarks.speed.jobs import gradient, predict
from benchmarks.speed.timing import clock
from benchmarks.speed.trials import Trial
from relprop.errors import RelpropError
from relprop.evaluation.methods import Method, MethodContext, make_methods
from relprop.evaluation.methods.base import Request
from relprop.evaluation.report import Evaluation
from relprop.evaluation.subject import prepare_model
from relprop.gae.states import MAPS_PER_SAMPLE, PICTURE
from relprop.models import Classifier, PictureTransform, find_pictures, load_classifier, read_picture

WORK = ("loading", "masking", "explaining", "scoring")
"""Phases that come one after the other; the file is written beside them."""


MEMBERS = 4
"""Pictures of a mosaic."""


class CostError(RelpropError, ValueError):
    """Pictures over which the cost of GAE would be wrong."""


@dataclass(frozen=True)
class EvaluationRow:
    """One run over some pictures.

    Attributes
    ----------
    model, methods, maps, samples, unit, batch_size
        What was evaluated, and how. ``maps`` are those that the file keeps.
    samples_per_second
        Of the whole run but the capture.
    loading, masking, explaining, scoring
        Seconds in each phase.
    writing
        Seconds of the thread that writes beside them.
    total
        Of the run.
    writing_share
        Writing over the total.
    bytes_per_sample
        The file's size over the samples.
    """

    KEYS: ClassVar = ("model", "methods", "maps", "samples", "unit", "batch_size")

    model: str
    methods: str
    maps: str
    samples: int
    unit: int
    batch_size: int
    samples_per_second: float
    loading: float
    masking: float
    explaining: float
    scoring: float
    writing: float
    total: float
    writing_share: float
    bytes_per_sample: float


@dataclass(frozen=True)
class CostRow:
    """What GAE of one method costs a sample, in seconds: medians over rounds.

    Attributes
    ----------
    model, method, samples, unit, batch_size, repeats
        What was measured.
    seconds
        Of the evaluation under this method alone, masking run included, without opening and closing the file.
    explanations
        Of twenty maps alone.
    passes
        Of twenty forward and backward passes alone.
    over_floor
        The first over the other two; median of the rounds.
    lowest, highest
        Its extremes.
    """

    KEYS: ClassVar = ("model", "method", "samples", "unit", "batch_size")

    model: str
    method: str
    samples: int
    unit: int
    batch_size: int
    repeats: int
    seconds: float
    explanations: float
    passes: float
    over_floor: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Plan:
    """A model with its pictures, and how they are evaluated."""

    name: str
    model: nn.Module | Classifier
    transform: PictureTransform | None
    pictures: Sequence[Path]
    methods: tuple[str, ...]
    unit: int
    batch_size: int


def open_plan(
    name: str,
    conditions: Conditions,
    folder: Path,
    samples: int,
    *,
    weights: Path | None,
    shared: Path | None,
    methods: Sequence[str],
    unit: int,
    batch_size: int,
    side: int | None = None,
) -> Plan:
    """Find a model and pictures.

    Parameters
    ----------
    name
        Of the model. With ``weights``, or with known ones in the shared folder, it is as `load_classifier` has it; else
        a timm model with random ones.
    conditions
        Where it runs.
    folder
        Where pictures are written, if there is no shared folder to take them from.
    samples
        How many pictures.
    weights
        A file.
    shared
        The folder that holds ``assets/``.
    methods, unit, batch_size
        As `relprop.evaluate` takes them.
    side
        Of what a model with random weights sees, if not its own.

    Raises
    ------
    RelpropError
        The model or the pictures aren't there.
    """
    if weights is None and shared is not None and name in CLASSIFIERS:
        weights = shared / "assets" / "weights" / CLASSIFIERS[name].weights
    if shared is None:
        pictures = write_pictures(folder, samples, 256)
    else:
        pictures = [path for _, path, _ in labelled_pictures(shared)[:samples]]
    model: nn.Module | Classifier
    transform = None
    if weights is None:
        model, x = Trial(name, 8, side).make(conditions)
        transform = preparation(x.shape[-1])
    else:
        model = load_classifier(name, weights, device=str(conditions.device))
    return Plan(name, model, transform, find_pictures(pictures), tuple(methods), unit, batch_size)


def measure_runs(plan: Plan) -> list[EvaluationRow]:
    """Evaluate with and without maps in the file."""
    rows = []
    with TemporaryDirectory() as folder:
        file = Path(folder, "run.h5")
        _evaluate(plan, plan.pictures[: 4 * plan.unit], file, plan.methods)  # captures
        for maps in ("none", "map"):
            found = _evaluate(plan, plan.pictures, file, plan.methods, relevance=False if maps == "none" else maps)
            spent = found.seconds
            rows.append(
                EvaluationRow(
                    plan.name,
                    " ".join(plan.methods),
                    maps,
                    found.samples,
                    plan.unit,
                    plan.batch_size,
                    samples_per_second=found.samples / spent["total"],
                    **spent,
                    writing_share=spent["writing"] / spent["total"],
                    bytes_per_sample=file.stat().st_size / found.samples,
                )
            )
    return rows


def require_whole_units(costed: int, samples: int, unit: int) -> None:
    """Refuse pictures that leave a unit open, as it would be filled up and cost what no picture needs.

    Raises
    ------
    CostError
        They are no whole units, or more than there are.
    """
    if costed % (MEMBERS * unit) or costed > samples:
        raise CostError(
            f"--costed {costed}: the floor is found over whole units of {MEMBERS * unit} pictures (--unit {unit}), "
            f"out of --samples {samples}"
        )


def measure_costs(plan: Plan, samples: int, repeats: int, conditions: Conditions) -> list[CostRow]:
    """Compare the evaluation of each method with its floor, in turns; conditions are in force already."""
    subject = prepare_model(plan.model, transform=plan.transform)
    assert subject.transform is not None
    x = torch.stack([subject.transform(read_picture(path)) for path in plan.pictures[:samples]])
    x = x.to(subject.device, subject.dtype)
    chunks = x.repeat_interleave(MAPS_PER_SAMPLE, 0).split(plan.batch_size)
    passes = [gradient(subject.given, chunk) for chunk in chunks]
    made = make_methods(list(plan.methods), MethodContext(subject.given, classifier=subject.classifier))
    rows = []
    for name, method in made.items():
        maps = [_maps(method, subject.call, chunk) for chunk in chunks]
        with TemporaryDirectory() as folder:
            rounds = [
                (
                    _seconds_of_work(_evaluate(plan, x, Path(folder, "run.h5"), [name])),
                    clock(partial(_all, maps), conditions).wall,
                    clock(partial(_all, passes), conditions).wall,
                )
                for _ in trange(repeats + 1, desc=name, unit="round", disable=None, leave=False)
            ][1:]  # the first one captures
        over_floor = [whole / (explaining + passing) for whole, explaining, passing in rounds]
        whole, explaining, passing = (median(column) / len(x) for column in zip(*rounds, strict=True))
        rows.append(
            CostRow(
                *(plan.name, name, len(x), plan.unit, plan.batch_size, len(rounds)),
                *(whole, explaining, passing, median(over_floor), min(over_floor), max(over_floor)),
            )
        )
    return rows


def _evaluate(plan: Plan, data: Any, file: Path, methods: Sequence[str], relevance: bool | str = False) -> Evaluation:
    return relprop.evaluate(
        plan.model, data, list(methods), file, unit=plan.unit, batch_size=plan.batch_size,
        transform=plan.transform, relevance=relevance, overwrite=True,
    )  # fmt: skip


def _seconds_of_work(found: Evaluation) -> float:
    return sum(found.seconds[phase] for phase in WORK)


def _maps(method: Method, model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """Return what makes a method's maps of pictures ``(B, C, H, W)``, of the classes that the model predicts."""
    return partial(method.maps, Request(x, predict(model, x), tuple(range(len(x))), (PICTURE,) * len(x)))


def _all(jobs: Sequence[Callable[[], object]]) -> None:
    for job in jobs:
        job()
