"""Attributions as captum has them, of whatever explains: inputs in, tensors of the same structure out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.assign.contrasts import Contrast
from relprop.assign.plan import Plan
from relprop.assign.targets import Target
from relprop.errors import InputError, TargetError
from relprop.explanation.explanation import Explanation
from rule_registry import RuleSet

Attributions = Tensor | tuple[Tensor, ...]
"""One tensor for one input, a tuple for a tuple of them."""


class Explains(Protocol):
    """What attributions need of an `relprop.Explainer`."""

    model: nn.Module | ExportedProgram
    rules: str | RuleSet
    contrast: Contrast
    at: str | None
    output: str | int | None

    def __call__(self, x: Any, target: Target = None, kwargs: Mapping[str, Any] | None = None) -> Explanation:
        """Explain a batch."""

    def plan(self, x: Any, target: Target = None, kwargs: Mapping[str, Any] | None = None) -> Plan:
        """Return the graph and the rule of each of its operations."""


def attributions_of(
    explain: Explains, inputs: Attributions, target: Any, additional: Any
) -> tuple[Attributions, Explanation]:
    """Explain, and return the inputs' relevance, see `relprop.Explainer.attribute`, and all that belongs to it."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    for place, tensor in enumerate(given):
        if not isinstance(tensor, Tensor):
            raise InputError(f"input {place} is a {type(tensor).__name__}, and only tensors have attributions")
    more = () if additional is None else additional if isinstance(additional, tuple) else (additional,)
    target = _as_target(target)
    explanation = explain((*given, *more), target)
    if explain.at is not None:
        return explanation.relevance.detach(), explanation
    nodes = explain.plan((*given, *more), target).graph.inputs  # one for each tensor, in the order of the arguments
    found = []
    for place, node in enumerate(nodes[: len(given)]):
        if node.name not in explanation.relevances:
            raise InputError(
                f"input {place}, {node.name!r}, has no relevance: it is {given[place].dtype} and looks no values up; "
                "pass it in additional_forward_args"
            )
        found.append(explanation.relevances[node.name].detach())
    return tuple(found) if isinstance(inputs, tuple) else found[0], explanation


@dataclass(frozen=True)
class _Place:
    """A target: one place of the output of each sample."""

    place: tuple[int, ...]

    def __call__(self, output: Tensor) -> Tensor:
        """Return that place of an output ``(B, ...)``, ``(B,)``."""
        for index in self.place:
            output = output.select(1, index)
        return output


def _as_target(target: Any) -> Target:
    """Return what captum understands by a target as a target of ours."""
    if isinstance(target, list) and any(isinstance(entry, tuple) for entry in target):
        raise TargetError(
            "target is a list of tuples, a place in the output of each sample: one tuple for all samples is taken, so "
            "attribute samples of unlike places by themselves"
        )
    if isinstance(target, tuple):
        return _Place(target) if len(target) > 1 else target[0]
    if isinstance(target, Tensor) and target.numel() == 1 and target.ndim:
        return target.reshape(())  # for all samples, as captum has it
    return target  # type: ignore[no-any-return]
