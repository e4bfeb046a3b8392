"""What an explanation costs, in units of one plain input gradient.

Wall-clock time on a shared machine is noise, and so is a ratio of two numbers measured minutes apart. So all
jobs run in one process and take turns; every round gives one ratio, and the median over the rounds is reported.
The processor's own seconds (all threads) are compared beside it, as they suffer less from neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import timm
import torch
from torch import Tensor, nn
from tqdm import trange

import relprop
from benchmarks.conditions import Conditions
from benchmarks.peers import INPUT_X_GRADIENT, PEERS, measure_peers
from benchmarks.weights import settle
from benchmarks.zoo.entries import Subject

Job = Callable[[], object]
GRADIENT, FORWARD = "gradient", "forward"


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
    """

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


@dataclass(frozen=True)
class Timing:
    """How long one job took in one round."""

    wall: float
    processor: float


def compare_speed(name: str, batch: int, repeats: int, conditions: Conditions, peers: bool = False) -> list[SpeedRow]:
    """Time a model's forward pass, input gradient and explanations, in turns.

    Parameters
    ----------
    name
        A timm model; its weights are random.
    batch
        Pictures at once.
    repeats
        Rounds. One more comes first and isn't counted: it captures, and prepares weights.
    conditions
        Device and precision; its threads are to be in force already.
    peers
        Whether other libraries take part. One that can't explain the model is left out; one whose relevance is not
        what it promises is timed and called wrong.

    Raises
    ------
    MissingExtraError
        If a peer is not installed.
    """
    generator = torch.Generator().manual_seed(0)
    made: Any = timm.create_model(name).eval().requires_grad_(False)
    size = made.default_cfg["input_size"]
    x = torch.randn(batch, *size, generator=generator)
    model, x = conditions.place(settle(made, x)), conditions.place(x)
    work = dict(jobs(model, x))
    if peers:
        work |= peer_jobs(model, x)
    rounds = [
        {job: clock(run, conditions) for job, run in work.items()}
        for _ in trange(repeats + 1, desc=name, unit="round", disable=None, leave=False)
    ]
    return [_row(name, job, batch, rounds[1:]) for job in work]


def jobs(model: nn.Module, x: Tensor) -> Mapping[str, Job]:
    """Return what is compared: a forward pass, an input gradient, two kinds of explanation."""

    def forward() -> Tensor:
        with torch.inference_mode():
            return model(x)  # type: ignore[no-any-return]

    target = forward().argmax(1, keepdim=True).clone()

    def gradient() -> Tensor:
        source = x.clone().requires_grad_()
        return torch.autograd.grad(model(source).gather(1, target).sum(), source)[0]

    return {
        FORWARD: forward,
        GRADIENT: gradient,
        "explain": lambda: relprop.explain(model, x),
        "explain, contrast=None": lambda: relprop.explain(model, x, contrast=None),
    }


def peer_jobs(model: nn.Module, x: Tensor) -> Mapping[str, Job]:
    """Return what other libraries do: an explanation of one seed each, of a model prepared beforehand."""
    verdicts = {**measure_peers(Subject(model, x[:2])), INPUT_X_GRADIENT.name: "ok"}
    with torch.inference_mode():
        target = model(x).argmax(1)
    target = target.clone()
    work: dict[str, Job] = {}
    for peer in (INPUT_X_GRADIENT, *PEERS):
        verdict = verdicts[peer.name]
        if not verdict.startswith("error"):
            name = peer.name if verdict.startswith("ok") else f"{peer.name} (wrong)"
            work[name] = partial(peer.method(model), x, target)
    return work


def clock(job: Job, conditions: Conditions) -> Timing:
    """Run a job once, and time it."""
    conditions.synchronise()
    wall, processor = time.perf_counter(), time.process_time()
    job()
    conditions.synchronise()
    return Timing(time.perf_counter() - wall, time.process_time() - processor)


def _row(name: str, job: str, batch: int, rounds: list[dict[str, Timing]]) -> SpeedRow:
    over_gradient = [one[job].wall / one[GRADIENT].wall for one in rounds]
    return SpeedRow(
        model=name,
        job=job,
        batch=batch,
        repeats=len(rounds),
        seconds=median(one[job].wall for one in rounds),
        over_gradient=median(over_gradient),
        lowest=min(over_gradient),
        highest=max(over_gradient),
        over_forward=median(one[job].wall / one[FORWARD].wall for one in rounds),
        processor_over_gradient=median(one[job].processor / one[GRADIENT].processor for one in rounds),
    )
