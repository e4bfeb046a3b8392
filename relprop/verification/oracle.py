"""The gradient oracle: under the rule set ``gradient`` a program must return what autograd returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import rule_registry
from relprop.assign.targets import Target
from relprop.errors import CaptureError, InputError, TargetError
from relprop.explainer import Explainer
from relprop.tracing.capture import whole_operations
from relprop.tracing.export import no_autocast
from relprop.tracing.inputs import Inputs, check_inputs
from relprop.tracing.loading import Model, load_model
from relprop.tracing.model_copy import independent_copy
from relprop.verification.autograd import detached_copy, input_gradient, is_float, runnable_copy
from relprop.verification.lookups import looked_up_totals
from rule_registry import RuleSet


def gradient_oracle_error(
    model: Model,
    x: Any,
    *,
    target: Target = None,
    at: str | None = None,
    output: str | int | None = None,
    rules: str | RuleSet = "abslrp",
    kwargs: Mapping[str, Any] | None = None,
) -> float:
    """Compare the program under the rule set ``gradient`` with autograd's gradient of the target.

    Parameters are those of `relprop.explain`. The graph is the one that a program under ``rules`` has.

    Returns
    -------
    float
        Largest absolute difference over the largest absolute gradient; about 1e-15 where all is right.
    """
    chosen = rule_registry.get(rules) if isinstance(rules, str) else rules
    return gradient_oracle(load_model(model), check_inputs(x, kwargs), target, at, output, chosen)[0]


def gradient_oracle(
    model: nn.Module | ExportedProgram,
    inputs: Inputs,
    target: Target,
    at: str | None,
    output: str | int | None,
    rules: RuleSet,
) -> tuple[float, torch.dtype]:
    """Return the error and the least precise type that activations were computed in."""
    gradient = _gradient_on_the_graph_of(rules)
    with torch.inference_mode(False), no_autocast():
        try:
            exact, given = _in_double(model, inputs)
            explainer = Explainer(exact, rules=gradient, at=at, output=output)
            e = explainer(given, target)
        except (InputError, CaptureError, TargetError):  # a forward or target that insists on a precision: in its own
            exact, given = model, detached_copy(inputs)
            explainer = Explainer(exact, rules=gradient, at=at, output=output)
            e = explainer(given, target)
        graph = explainer.plan(given, target).graph
        precision, given = graph.precision, given.marked_as(graph)
        meant = target if e.target is None else e.target
        if len(e) == 1 and not graph.alone:
            given, meant = _twice(given, meant)
        runnable, read = runnable_copy(exact), [name for name in e.relevances if name not in e.looked_up]
        gradients = input_gradient(runnable, given, meant, at, output) if read else []
        pairs = [
            (e.relevances[name], e.axes[name].take(g, slice(len(e)))) for name, g in zip(read, gradients, strict=True)
        ]
        if e.looked_up:
            found = torch.stack([e.axes[name].sum(e.relevances[name], lead=0) for name in e.looked_up]).sum(0)
            pairs.append((found, looked_up_totals(explainer.plan(given, target), given, meant)[: len(e)]))
    errors = [
        float((found - wanted).abs().max() / wanted.abs().max().clamp(min=_tiny(wanted))) for found, wanted in pairs
    ]
    return max(errors), precision


def _tiny(tensor: Tensor) -> float:
    """Return the smallest normal number of the type of a tensor of any shape."""
    return torch.finfo(tensor.dtype).tiny


def _gradient_on_the_graph_of(rules: RuleSet) -> RuleSet:
    """Return the rule set ``gradient`` with an entry for every operation that stays whole for another rule set."""
    gradient = rule_registry.get("gradient")
    assert gradient.default is not None
    own = rules.operations() - whole_operations(gradient)
    return gradient.derive(dict.fromkeys(own, gradient.default)) if own else gradient


def _twice(inputs: Inputs, target: Target) -> tuple[Inputs, Target]:
    """Put a single sample beside itself, for torch's sake, and since a squeeze takes the batch axis of a single one.

    The backward of torch's batch norm (2.15, on a CPU) mixes the entries of a gradient of one sample that lies in
    memory as a transposition leaves it, channels last. Samples do not depend on each other, so nothing else changes.
    """
    doubled = inputs.replace(lambda tensor, batched: torch.cat([tensor, tensor]) if batched else tensor)
    return doubled, torch.cat([target, target]) if isinstance(target, Tensor) else target


def _in_double(model: nn.Module | ExportedProgram, inputs: Inputs) -> tuple[nn.Module | ExportedProgram, Inputs]:
    """Bring a module and its inputs to 64-bit precision, on copies; an exported program is fixed to its own."""
    given = detached_copy(inputs)
    if isinstance(model, ExportedProgram):
        return model, given
    given = given.replace(lambda tensor, _: tensor.double() if is_float(tensor) else tensor)
    held = [tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()]
    if held and set(held) == {torch.float64}:
        return model, given
    return independent_copy(model).double().requires_grad_(False), given
