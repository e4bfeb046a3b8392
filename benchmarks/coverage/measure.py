"""Measuring one model of the zoo: whether it is captured, covered by rules and explained right."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

import relprop
import rule_registry
from benchmarks.peers import measure_peers
from benchmarks.zoo.entries import Entry, Subject
from relprop.errors import CaptureError, InputError, first_line
from relprop.run.memory import OutOfMemoryError
from relprop.tracing.inputs import Inputs, check_inputs
from relprop.tracing.outputs import choose_output, explained
from relprop.verification.autograd import is_float
from relprop.verification.oracle import gradient_oracle_error

SAMPLES = 2

Findings = dict[str, Any]


@dataclass(frozen=True)
class CoverageRow:
    """What was found for one model with random, settled weights; what could not be measured is empty.

    Attributes
    ----------
    source, name, family
        Of the model, see `benchmarks.zoo.entries.Entry`.
    input
        Shapes of the floating-point inputs, without the samples.
    captured
        Whether there is a graph that provably computes the same.
    operations
        How many operations carry relevance.
    uncovered
        Those of them for which ``abslrp`` has no rule, by name.
    forward_error
        Largest over batches of two and one: the program's output against the model's, over the largest output, in
        float32.
    oracle_error
        Largest over batches of two and one, one capture: the program under ``gradient`` against autograd, over the
        largest gradient, in float64.
    finite
        Whether all relevance under ``abslrp`` in float32 is.
    conservation_error
        Largest deviation of a cut's mass from one there, counted losses put back.
    lost
        Largest share of a seed's mass that was counted as lost.
    where
        The operations that lost it.
    suspects
        How many rules seem to delete relevance.
    seconds
        All of this together.
    error
        What went wrong, and whose limitation it is.
    captum, zennit, autolrp, lxt
        What these libraries make of the model, see `benchmarks.peers`; empty if they were not asked.
    """

    KEYS: ClassVar = ("source", "name")

    source: str
    name: str
    family: str
    input: str = ""
    captured: bool = False
    operations: int | None = None
    uncovered: str = ""
    forward_error: float | None = None
    oracle_error: float | None = None
    finite: bool | None = None
    conservation_error: float | None = None
    lost: float | None = None
    where: str = ""
    suspects: int | None = None
    seconds: float | None = None
    error: str = ""
    captum: str = ""
    zennit: str = ""
    autolrp: str = ""
    lxt: str = ""


PEERS = ("captum", "zennit", "autolrp", "lxt")
"""The columns of a row that are about other libraries."""


def measure(entry: Entry) -> CoverageRow:
    """Measure a model; whatever fails is in the row's ``error``."""
    start = time.perf_counter()
    found: Findings = {}
    errors: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for stage, findings in _stages(entry):
            try:
                found |= findings()
            except Exception as error:  # whatever a model, the libraries it uses or this one may raise
                errors.append(f"{stage}: {blamed(error, entry, stage)}")
                if stage in ("making", "capture"):
                    break
    gc.collect()
    return CoverageRow(
        entry.source, entry.name, entry.family, **found, seconds=time.perf_counter() - start, error="; ".join(errors)
    )


def ask_peers(entry: Entry) -> dict[str, str]:
    """Measure what other libraries make of a model, by the name of the column."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name.lower(): verdict for name, verdict in measure_peers(entry.build(SAMPLES)).items()}


def _stages(entry: Entry) -> Iterator[tuple[str, Callable[[], Findings]]]:
    """Yield what is to be done, one after the other."""
    made: list[Subject] = []

    def make() -> Findings:
        made.append(entry.build(SAMPLES))
        shapes = [tensor.shape[1:] for tensor in check_inputs(made[0].inputs, made[0].kwargs).tensors]
        return {"input": " ".join("x".join(map(str, shape)) for shape in shapes)}

    yield "making", make
    (subject,) = made
    yield "capture", partial(_capture, subject)
    yield "explaining", partial(_explain, subject)
    yield "gradient oracle", partial(_compare_gradients, subject)


def _capture(subject: Subject) -> Findings:
    rules = rule_registry.get("abslrp")
    anything = rules.derive(default=rule_registry.positive_contribution)
    explainer = relprop.Explainer(subject.model, rules=anything, **_options(subject, "contrast", "at", "output"))
    plan = explainer.plan(subject.inputs, subject.options.get("target"), subject.kwargs)
    uncovered = {str(site.op) for site in plan.sites.values() if rules.find(site) is None}
    return {"captured": True, "operations": len(plan.sites), "uncovered": " ".join(sorted(uncovered))}


def _explain(subject: Subject) -> Findings:
    given = check_inputs(subject.inputs, subject.kwargs)
    errors, findings = [], {}
    for samples in (1, SAMPLES):
        args, kwargs = _first(samples, given)
        e = relprop.explain(subject.model, args, kwargs=kwargs, **subject.options)
        expected = _output(subject, args, kwargs)
        errors.append(float((e.output - expected).abs().max() / expected.abs().max()))
        kept = e.conservation
        findings = {
            "forward_error": max(errors),
            "finite": all(bool(relevance.isfinite().all()) for relevance in e.relevances.values()),
            "conservation_error": kept.error,
            "lost": kept.lost,
            "where": " ".join(cut.name for cut in kept.losses),
            "suspects": len(kept.suspects),
        }
    return findings


def _compare_gradients(subject: Subject) -> Findings:
    options = _options(subject, "target", "at", "output")
    given = check_inputs(subject.inputs, subject.kwargs)
    exact = copy.deepcopy(subject.model).double() if subject.exact is None else subject.exact
    wide = given.replace(lambda tensor, _: tensor.double() if is_float(tensor) else tensor)
    batches = [_first(samples, wide) for samples in (SAMPLES, 1)]
    return {
        "oracle_error": max(gradient_oracle_error(exact, args, kwargs=kwargs, **options) for args, kwargs in batches)
    }


def _options(subject: Subject, *names: str) -> dict[str, Any]:
    return {name: subject.options[name] for name in names if name in subject.options}


def _first(samples: int, given: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs with the first samples alone, ``(samples, ...)`` each that holds them."""
    return given.map(lambda tensor, batched: tensor[:samples] if batched else tensor)


def _output(subject: Subject, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the output that is explained, ``(B, ...)``, or what the target makes of it, by the model itself."""
    with torch.no_grad():
        target = subject.options.get("target")
        function = target if callable(target) else None
        returned = explained(subject.model(*args, **kwargs), function, subject.options.get("output"))
    return choose_output(returned, None)[0]


def blamed(error: Exception, entry: Entry, stage: str) -> str:
    """Say what went wrong, and whose limitation it is."""
    if isinstance(error, OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
        return f"does not fit into memory ({first_line(error)})"
    if stage == "making":
        who = f"{entry.source}'s"
    elif isinstance(error, InputError) or "samples of a batch are mixed" in str(error):
        who = "the model's"
    elif isinstance(error, CaptureError) and error.__cause__ is not None:
        who = "torch.export's"
    else:
        who = "relprop's"
    return f"{who} limitation: {type(error).__name__}: {first_line(error)}"
