"""Checking whether a model is captured, covered by rules, computed right, conserved and stable."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from relprop.assign.targets import Target
from relprop.errors import MissingRuleError, first_line
from relprop.explainer import Explainer
from relprop.explanation.explanation import Explanation
from relprop.options import Options, spell_options
from relprop.tracing.disk.cache import record_verified
from relprop.tracing.export import no_autocast
from relprop.tracing.inputs import Inputs
from relprop.tracing.loading import Model
from relprop.verification.autograd import detached_copy, input_gradient, is_float, runnable_copy
from relprop.verification.notes import notes_of
from relprop.verification.oracle import gradient_oracle
from relprop.verification.report import NOISE, Report


@spell_options
def check(
    model: Model,
    x: Any,
    *,
    target: Target = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Report:
    """Check whether a model's explanations can be trusted, on a batch of real inputs.

    Parameters are those of `relprop.explain`. A model in 64-bit precision is needed for the oracle: a copy is made
    for it, so memory for two models is used.

    Returns
    -------
    Report
        Print it; ``report.ok`` is the verdict.
    """
    explainer = Explainer(model, **options)
    model, at, output, rules = explainer.model, explainer.at, explainer.output, explainer.rules
    name = type(model).__name__
    inputs = explainer.check_inputs(x, kwargs)
    try:
        plan = explainer.plan(inputs, target)
    except MissingRuleError as error:
        return Report(name, rules if isinstance(rules, str) else rules.name, missing=str(error))
    inputs = inputs.marked_as(plan.graph)
    explanation = explainer(inputs, target)
    meant = target if explanation.target is None else explanation.target
    oracle_error, dtype = gradient_oracle(model, inputs, meant, at, output, plan.rules)
    record_verified(plan.graph, oracle_error)
    runnable = runnable_copy(model)
    given = detached_copy(inputs)
    notes = notes_of(plan)
    with torch.inference_mode(False), no_autocast():
        try:
            gradient_seconds = _seconds(lambda: input_gradient(runnable, given, meant, at, output))
        except Exception as error:  # whatever a model raises whose squeeze takes the batch axis of a single sample
            if len(explanation) > 1:
                raise
            gradient_seconds = math.nan
            notes += (
                f"the model itself loses the batch axis of a single sample ({type(error).__name__}: "
                f"{first_line(error)}), so its gradient was not timed. The explanation keeps that axis",
            )
    return Report(
        model=name,
        rules=plan.rules.name,
        operations=Counter((str(site.op), str(plan.assigned[node])) for node, site in plan.sites.items()),
        assignment=tuple(plan.rows()),
        oracle_error=oracle_error,
        oracle_dtype=dtype,
        conservation=explanation.conservation,
        stability=_stability(explanation, explainer(_with_noise(inputs), meant)) if at is None else None,
        seconds=_seconds(lambda: explainer(inputs, meant)),
        gradient_seconds=gradient_seconds,
        notes=notes,
    )


def _stability(explanation: Explanation, noisy: Explanation) -> float:
    """Return the smallest cosine of a sample's map with that under noise, of the sources that receive anything."""
    maps = [(source, a.reshape(len(a), -1)) for source, a in explanation.relevances.items()]
    pairs = [(a.double(), noisy.relevances[source].reshape(a.shape).double()) for source, a in maps]
    reached = [(a, b) for a, b in pairs if a.any() or b.any()] or pairs  # where features are cropped is held, say
    cosines = [F.cosine_similarity(a, b).min() for a, b in reached]
    return float(torch.stack(cosines).min())


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _with_noise(inputs: Inputs) -> Inputs:
    """Add noise to every source among the inputs."""
    generator = torch.Generator().manual_seed(0)

    def noisy(tensor: Tensor, batched: bool) -> Tensor:
        if not (batched and is_float(tensor)):
            return tensor
        noise = torch.randn(tensor.shape, generator=generator, device="cpu").to(tensor)
        return tensor.detach() + NOISE * tensor.detach().float().std().to(tensor) * noise

    return inputs.replace(noisy)
