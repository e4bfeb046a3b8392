"""The floor of a job's time: its arithmetic alone.

The products of the job are counted, and run again alone, in turns with it. The difference is time between products; a
profile of both shows the operations that it is spent in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from benchmarks.conditions import Conditions
from benchmarks.speed.jobs import AS_IT_IS, COMPILED, EXPLAIN, FORWARD, JOBS, Job
from benchmarks.speed.operations import Spent, profile_operations
from benchmarks.speed.products import Product, alone, multiply_adds, record
from benchmarks.speed.timing import Rounds, ratios, seconds, take_turns
from benchmarks.speed.trials import Trial

TOP = 12
"""Operations listed a model."""


@dataclass(frozen=True)
class FloorRow:
    """One job of one model.

    Attributes
    ----------
    model, job, batch, repeats
        What was measured, and how many rounds.
    products
        How many it runs; an explanation's forward pass is among them.
    giga_multiply_adds
        In all of them.
    over_forward
        Their multiply-adds over the forward pass's.
    seconds, products_seconds
        Wall clock of the job, and of its products alone; medians.
    over_products
        Their ratio: the median over the rounds.
    lowest, highest
        Its extremes.
    """

    KEYS: ClassVar = ("model", "job", "batch")

    model: str
    job: str
    batch: int
    repeats: int
    products: int
    giga_multiply_adds: float
    over_forward: float
    seconds: float
    products_seconds: float
    over_products: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class OperationRow:
    """What an explanation spends in an operation beside its products.

    Attributes
    ----------
    model, operation, batch
        What was measured; the last operation stands for all others.
    calls, seconds
        In an explanation, under the profiler, which makes short operations look longer than they are.
    products_seconds
        In its products alone: what a product takes, or what it needs of this operation.
    rest
        The difference.
    share
        Of all that an explanation spends beside its products.
    """

    KEYS: ClassVar = ("model", "operation", "batch")

    model: str
    operation: str
    batch: int
    calls: int
    seconds: float
    products_seconds: float
    rest: float
    share: float


def find_floor(
    trial: Trial, repeats: int, conditions: Conditions, *, compiled: bool = False
) -> tuple[list[FloorRow], list[OperationRow]]:
    """Measure how far the jobs of one model are from their products.

    Parameters
    ----------
    trial
        Model and pictures.
    repeats
        Rounds.
    conditions
        In force already.
    compiled
        Whether compiled programs take part, over the same products.

    Returns
    -------
    list of FloorRow, list of OperationRow
        A row a job, and what the explanation spends beside its products.

    Raises
    ------
    TrialError
        The model can't be made.
    """
    model, x = trial.make(conditions)
    jobs = {name: make(model, x) for name, make in JOBS.items()}
    products = {name: _recorded(job) for name, job in jobs.items()}
    bare = {name: alone(found) for name, found in products.items()}
    turns = {label: job for name in jobs for label, job in ((name, jobs[name]), (_bare(name), bare[name]))}
    if compiled:
        turns |= {name: make(model, x) for name, make in COMPILED.items()}
    rounds = take_turns(turns, repeats, conditions, trial.model)
    spent = [profile_operations(job, conditions) for job in (jobs[EXPLAIN], bare[EXPLAIN])]
    rows = [_row(trial, name, name, products, rounds) for name in jobs]
    if compiled:
        rows += [_row(trial, name, AS_IT_IS[name], products, rounds) for name in COMPILED]
    return rows, beside_products(trial, *spent)


def _recorded(job: Job) -> list[Product]:
    job()
    return record(job)


def _bare(name: str) -> str:
    return f"{name}, products"


def _row(trial: Trial, job: str, same: str, products: Mapping[str, Sequence[Product]], rounds: Rounds) -> FloorRow:
    """Compare a job with the products of the job that it is the same as."""
    over_products = ratios(rounds, job, _bare(same))
    count = multiply_adds(products[same])
    return FloorRow(
        trial.model, job, trial.batch, len(rounds),
        products=len(products[same]),
        giga_multiply_adds=count / 1e9,
        over_forward=count / multiply_adds(products[FORWARD]),
        seconds=seconds(rounds, job),
        products_seconds=seconds(rounds, _bare(same)),
        over_products=median(over_products),
        lowest=min(over_products),
        highest=max(over_products),
    )  # fmt: skip


def beside_products(trial: Trial, whole: Mapping[str, Spent], bare: Mapping[str, Spent]) -> list[OperationRow]:
    """Subtract a profile of the products alone from one of the whole, and list what is left, the largest first."""
    rest = {name: spent.seconds - bare.get(name, Spent()).seconds for name, spent in whole.items()}
    total = sum(rest.values())
    names = sorted(rest, key=lambda name: rest[name], reverse=True)
    listed, others = names[:TOP], names[TOP:]
    groups = {**{name: [name] for name in listed}, **({"all others": others} if others else {})}
    return [
        OperationRow(
            trial.model, label, trial.batch,
            calls=sum(whole[name].calls for name in group),
            seconds=sum(whole[name].seconds for name in group),
            products_seconds=sum(bare.get(name, Spent()).seconds for name in group),
            rest=sum(rest[name] for name in group),
            share=sum(rest[name] for name in group) / total,
        )
        for label, group in groups.items()
    ]  # fmt: skip
