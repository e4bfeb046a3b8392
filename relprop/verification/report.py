"""What a check found, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from relprop.assign.plan import Row, table
from relprop.printed import Printed, Table
from relprop.run.conservation import Conservation

ORACLE_LIMIT = {torch.float64: 1e-8, torch.float32: 1e-3}
CONSERVATION_LIMIT = 1e-4
LOSS_LIMIT = 0.1
STABILITY_LIMIT = 0.99
NOISE = 1e-4


@dataclass(frozen=True, repr=False)
class Report(Printed):
    """What `check` found.

    Parameters
    ----------
    model, rules : str
        Name of the model, or its class, and name of the rule set.
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
    weights : str
        Where the weights came from; empty where that is not known.
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
    weights: str = ""

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
        if kept is not None and (kept.conserves or kept.mixed):
            if not kept.error <= CONSERVATION_LIMIT:
                found.append(f"relevance is not conserved: a cut is off by {kept.error:.1e}")
            found += [f"{cut.name} ({cut.operation}): {cut.suspect}" for cut in kept.suspects]
            if kept.conserves and kept.lost > LOSS_LIMIT:
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
            return "NOT to be trusted: see the problems above"
        if self.conservation is not None and self.conservation.conserves:
            return f"computed correctly, as {self.rules} is defined, and conserved"
        return f"computed as {self.rules} is defined; how much of the output its maps tell was not judged"

    def explain_rules(self) -> str:
        """Return a line for every operation: its name, what it is, its rule and which entry of the rule set that is."""
        return table(self.assignment)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as numbers, words and lists that JSON can hold; what was not measured is None."""
        kept = self.conservation
        return {
            "model": self.model,
            "weights": self.weights or None,
            "rules": self.rules,
            "ok": self.ok,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "oracle_error": finite(self.oracle_error),
            "oracle_dtype": str(self.oracle_dtype).removeprefix("torch."),
            "conservation_error": finite(kept.error) if kept is not None else None,
            "lost": kept.lost if kept is not None and kept.conserves else None,
            "stability": self.stability,
            "seconds": finite(self.seconds),
            "gradient_seconds": finite(self.gradient_seconds),
            "operations": [
                {"operation": operation, "rule": rule, "count": count}
                for (operation, rule), count in sorted(self.operations.items())
            ],
        }

    def _blocks(self) -> list[str | Table]:
        counted = [(operation, rule, str(count)) for (operation, rule), count in sorted(self.operations.items())]
        blocks: list[str | Table] = [f"{self.model} under {self.rules}"]
        blocks += [f"weights: {self.weights}"] if self.weights else []
        blocks.append(Table(("operation", "rule", "count"), counted, words=2))
        if not self.missing:
            precision = str(self.oracle_dtype).removeprefix("torch.")
            blocks += [
                f"gradient oracle   {self.oracle_error:.1e} of the largest gradient, in {precision}",
                str(self.conservation),
                "stability         "
                + ("not measured inside a model" if self.stability is None else f"{self.stability:.6f}")
                + f" (cosine under input noise of {NOISE:g})",
                f"time              {self.seconds:.2f} s, {self.seconds / self.gradient_seconds:.1f} input gradients",
            ]
        blocks += [f"note: {note}" for note in self.notes]
        blocks += [f"problem: {problem}" for problem in self.problems]
        return [*blocks, f"verdict: {self._verdict()}"]


def finite(value: float) -> float | None:
    """Return a number that JSON can hold; None where it is not finite."""
    return value if math.isfinite(value) else None
