"""Checking whether a model is captured, covered by rules, computed right, conserved and stable."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from relprop.assign.assign import Plan, Row, table
from relprop.assign.targets import Contrast, Target, check_inputs
from relprop.errors import MissingRuleError, first_line
from relprop.explainer import Explainer
from relprop.graph.graph import Graph, operation_name
from relprop.run.conservation import Conservation
from relprop.tracing.capture import Model, batched_inputs, opened
from relprop.tracing.export import no_autocast
from relprop.verification.oracle import gradient_oracle, input_gradient, is_float, leaf_copy, runnable_copy
from rule_registry import RuleSet

ORACLE_LIMIT = {torch.float64: 1e-8, torch.float32: 1e-3}
CONSERVATION_LIMIT = 1e-4
LOSS_LIMIT = 0.1
STABILITY_LIMIT = 0.99
NOISE = 1e-4

aten = torch.ops.aten


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Parameters
    ----------
    model, rules : str
        Class of the model and name of the rule set.
    operations : mapping of (str, str) to int
        How often each operation occurs under each rule.
    assignment : tuple of (str, str, str)
        Name, operation, and why it has its rule, of every operation in graph order; see `explain_rules`.
    missing : str
        The error that lists operations without a rule; empty if there are none.
    oracle_error : float
        Largest difference between the program under the rule set ``gradient`` and autograd's input gradient, over
        the largest gradient.
    oracle_dtype : torch.dtype
        Precision of that comparison.
    conservation : Conservation, optional
        Where the relevance went.
    stability : float, optional
        Smallest cosine of a map with itself under input noise of 1e-4 of its scale; None where the source is no
        input.
    seconds, gradient_seconds : float
        Time of one explanation, and of one plain input gradient of the same batch; NaN where a model can't do with a
        batch of one.
    notes : tuple of str
        What a reader should know.
    """

    model: str
    rules: str
    operations: Mapping[tuple[str, str], int] = field(default_factory=dict)
    assignment: tuple[Row, ...] = ()
    missing: str = ""
    oracle_error: float = float("nan")
    oracle_dtype: torch.dtype = torch.float64
    conservation: Conservation | None = None
    stability: float | None = None
    seconds: float = float("nan")
    gradient_seconds: float = float("nan")
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What speaks against trusting explanations of this model; empty if nothing does."""
        if self.missing:
            return (self.missing,)
        found = []
        if not self.oracle_error <= ORACLE_LIMIT.get(self.oracle_dtype, 1e-1):
            found.append(
                f"the gradient oracle is off by {self.oracle_error:.1e}: the program does not compute what autograd "
                "does. A torch.no_grad() region inside the forward, or the backward of an autograd.Function, which "
                "capture can't see, would do that"
            )
        kept = self.conservation
        if kept is not None and kept.conserves:
            if not kept.error <= CONSERVATION_LIMIT:
                found.append(f"relevance is not conserved: a cut is off by {kept.error:.1e}")
            found += [f"{cut.name} ({cut.operation}): {cut.suspect}" for cut in kept.suspects]
            if kept.lost > LOSS_LIMIT:
                found.append(f"{kept.lost:.0%} of a seed's relevance was lost, where all contributions were negative")
        if self.stability is not None and not self.stability >= STABILITY_LIMIT:
            found.append(f"the map is unstable: cosine {self.stability:.3f} with itself under noise of {NOISE:g}")
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def _verdict(self) -> str:
        if not self.ok:
            return "NOT trustworthy"
        if self.conservation is not None and self.conservation.conserves:
            return "trustworthy"
        return f"computed as {self.rules} is defined; how much of the output its maps tell was not judged"

    def explain_rules(self) -> str:
        """Return a line for every operation: its name, what it is, its rule and which entry of the rule set that is."""
        return table(self.assignment)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as numbers, words and lists that JSON can hold; what was not measured is None."""
        kept = self.conservation
        return {
            "model": self.model,
            "rules": self.rules,
            "ok": self.ok,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "oracle_error": _finite(self.oracle_error),
            "oracle_dtype": str(self.oracle_dtype).removeprefix("torch."),
            "conservation_error": _finite(kept.error) if kept is not None else None,
            "lost": kept.lost if kept is not None and kept.conserves else None,
            "stability": self.stability,
            "seconds": _finite(self.seconds),
            "gradient_seconds": _finite(self.gradient_seconds),
            "operations": [
                {"operation": operation, "rule": rule, "count": count}
                for (operation, rule), count in sorted(self.operations.items())
            ],
        }

    def __str__(self) -> str:
        rows = [f"{'operation':<44} {'rule':<28} count"]
        for (operation, rule), count in sorted(self.operations.items()):
            rows.append(f"{operation:<44} {rule:<28} {count:>5}")
        lines = [f"{self.model} under {self.rules}", *rows]
        if not self.missing:
            precision = str(self.oracle_dtype).removeprefix("torch.")
            lines += [
                f"gradient oracle   {self.oracle_error:.1e} of the largest gradient, in {precision}",
                str(self.conservation),
                "stability         "
                + ("not measured inside a model" if self.stability is None else f"{self.stability:.6f}")
                + f" (cosine under input noise of {NOISE:g})",
                f"time              {self.seconds:.2f} s, {self.seconds / self.gradient_seconds:.1f} input gradients",
            ]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines.append(f"verdict: {self._verdict()}")
        return "\n".join(lines)


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
    notes = _notes(plan)
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


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


def _notes(plan: Plan) -> tuple[str, ...]:
    fallen = Counter((str(plan.sites[n].op), str(rule)) for n, rule in plan.assigned.items() if rule.kind == "fallback")
    general = tuple(
        f"{operation} has no rule of its own: {count} of them under the fallback {rule}"
        for (operation, rule), count in sorted(fallen.items())
    )
    unused = tuple(
        f"the rule {rule} for {selector} holds nowhere in this model"
        for selector, rule in plan.rules.own
        if not any(selector.matches(site) for site in plan.sites.values())
    )
    return (
        general
        + unused
        + tuple(
            f"{plan.graph.describe(node)} looks like a normalisation written out by hand: relevance also goes through "
            "its statistics, which nn.LayerNorm and its kin hold constant"
            for node in plan.sites
            if node.target in (aten.div.Tensor, aten.mul.Tensor)
            and any(_is_scale(n, plan.graph) for n in node.all_input_nodes)
        )
    )


_SCALE = {"sqrt", "rsqrt", "reciprocal", "pow", "add", "clamp", "clamp_min", "mul", "sub"}
_STATISTICS = {"var", "std", "mean"}


def _is_scale(node: fx.Node, graph: Graph, root: bool = False, depth: int = 5) -> bool:
    """Whether a value is a root of a variance or mean of the activations, as norms divide by."""
    if depth == 0 or not isinstance(node.target, OpOverload) or graph.batch.get(node) is None:
        return False
    name = operation_name(node)
    if name in _STATISTICS:
        return root or name == "std"
    if name not in _SCALE:
        return False
    root = root or name in ("sqrt", "rsqrt") or (name == "pow" and node.args[1] in (0.5, -0.5))
    return any(_is_scale(source, graph, root, depth - 1) for source in node.all_input_nodes)
