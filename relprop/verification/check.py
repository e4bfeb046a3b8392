"""Checking whether a model is captured, covered by rules, computed right, conserved and stable."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from relprop.assign.targets import Contrast, Target
from relprop.errors import MissingRuleError, first_line
from relprop.explainer import Explainer
from relprop.tracing.export import no_autocast
from relprop.tracing.inputs import batched_inputs, check_inputs
from relprop.tracing.loading import Model, opened
from relprop.verification.autograd import input_gradient, is_float, leaf_copy, runnable_copy
from relprop.verification.notes import notes_of
from relprop.verification.oracle import gradient_oracle
from relprop.verification.report import NOISE, Report
from rule_registry import RuleSet


def check(
    model: Model,
    x: Any,
    *,
    target: Target = None,
    rules: str | RuleSet = "abslrp",
    contrast: Contrast = "default",
    at: str | None = None,
    output: str | int | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Report:
    """Check whether a model's explanations can be trusted, on a batch of real inputs.

    Parameters are those of `relprop.explain`. A model in 64-bit precision is needed for the oracle: a copy is made
    for it, so memory for two models is used.

    Returns
    -------
    Report
        Print it; ``report.ok`` is the verdict.
    """
    model = opened(model)
    explainer = Explainer(model, rules=rules, contrast=contrast, at=at, output=output)
    name = type(model).__name__
    try:
        plan = explainer.plan(x, target, kwargs)
    except MissingRuleError as error:
        return Report(name, rules if isinstance(rules, str) else rules.name, missing=str(error))
    explanation = explainer(x, target, kwargs)
    meant = target if explanation.target is None else explanation.target
    oracle_error, dtype = gradient_oracle(model, x, kwargs, meant, at, output)
    runnable = runnable_copy(model)
    inputs = pytree.tree_map(leaf_copy, check_inputs(x, kwargs))
    notes = notes_of(plan)
    with torch.inference_mode(False), no_autocast():
        try:
            gradient_seconds = _seconds(lambda: input_gradient(runnable, inputs, meant, at, output))
        except Exception as error:  # whatever a model raises whose squeeze takes the batch axis of a single sample
            if len(explanation) > 1:
                raise
            gradient_seconds = math.nan
            notes += (
                f"the model itself loses the batch axis of a single sample ({type(error).__name__}: "
                f"{first_line(error)}), so its gradient was not timed. The explanation keeps that axis",
            )
    stability = None
    if at is None:
        args, noisy_kwargs = _with_noise(*check_inputs(x, kwargs))
        noisy = explainer(args, meant, noisy_kwargs)
        cosines = [
            F.cosine_similarity(a.flatten(1).double(), noisy.relevances[source].flatten(1).double(), dim=1).min()
            for source, a in explanation.relevances.items()
        ]
        stability = float(torch.stack(cosines).min())
    return Report(
        model=name,
        rules=plan.rules.name,
        operations=Counter((str(site.op), str(plan.assigned[node])) for node, site in plan.sites.items()),
        assignment=tuple(plan.rows()),
        oracle_error=oracle_error,
        oracle_dtype=dtype,
        conservation=explanation.conservation,
        stability=stability,
        seconds=_seconds(lambda: explainer(x, meant, kwargs)),
        gradient_seconds=gradient_seconds,
        notes=notes,
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _with_noise(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add noise to every source among the inputs."""
    generator = torch.Generator().manual_seed(0)
    marks = iter(batched_inputs(args, kwargs))

    def noisy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not next(marks) or not is_float(leaf):
            return leaf
        noise = torch.randn(leaf.shape, generator=generator, device="cpu").to(leaf)
        return leaf.detach() + NOISE * leaf.detach().float().std().to(leaf) * noise

    changed: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(noisy, (args, dict(kwargs)))
    return changed
