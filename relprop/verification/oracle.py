"""The gradient oracle: under the rule set ``gradient`` a program must return what autograd returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.assign.targets import Target
from relprop.errors import CaptureError, InputError, TargetError
from relprop.explainer import Explainer
from relprop.tracing.export import no_autocast
from relprop.tracing.inputs import batched_inputs, check_inputs
from relprop.tracing.loading import Model, opened
from relprop.verification.autograd import Inputs, input_gradient, is_float, leaf_copy, runnable_copy


def gradient_oracle_error(
    model: Model,
    x: Any,
    *,
    target: Target = None,
    at: str | None = None,
    output: str | int | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> float:
    """Compare the program under the rule set ``gradient`` with autograd's gradient of the target.

    Parameters are those of `relprop.explain`.

    Returns
    -------
    float
        Largest absolute difference over the largest absolute gradient; about 1e-15 where all is right.
    """
    model = opened(model)
    return gradient_oracle(model, x, kwargs, target, at, output)[0]


def gradient_oracle(
    model: nn.Module | ExportedProgram,
    x: Any,
    kwargs: Mapping[str, Any] | None,
    target: Target,
    at: str | None,
    output: str | int | None,
) -> tuple[float, torch.dtype]:
    """Return the error and the least precise type that activations were computed in."""
    with torch.inference_mode(False), no_autocast():
        given = check_inputs(x, kwargs)
        try:
            exact, inputs = _in_double(model, given)
            explainer = Explainer(exact, rules="gradient", at=at, output=output)
            e = explainer(inputs[0], target, inputs[1])
        except (InputError, CaptureError, TargetError):  # a forward or target that insists on a precision: in its own
            exact, inputs = model, pytree.tree_map(leaf_copy, given)
            explainer = Explainer(exact, rules="gradient", at=at, output=output)
            e = explainer(inputs[0], target, inputs[1])
        precision = explainer.plan(inputs[0], target, inputs[1]).graph.precision
        meant = target if e.target is None else e.target
        if len(e) == 1:
            inputs, meant = _twice(inputs, meant)
        gradients = input_gradient(runnable_copy(exact), inputs, meant, at, output)
    errors = []
    for (name, found), beside in zip(e.relevances.items(), gradients, strict=True):
        wanted = e.axes[name].take(beside, slice(len(e)))
        errors.append(
            float((found - wanted).abs().max() / wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny))
        )
    return max(errors), precision


def _twice(inputs: Inputs, target: Target) -> tuple[Inputs, Target]:
    """Put a single sample beside itself, for torch's sake, and since a squeeze takes the batch axis of a single one.

    The backward of torch's batch norm (2.15, on a CPU) mixes the entries of a gradient of one sample that lies in
    memory as a transposition leaves it, channels last. Samples do not depend on each other, so nothing else changes.
    """
    marks = iter(batched_inputs(*inputs))

    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and next(marks) else leaf

    doubled: Inputs = pytree.tree_map(twice, inputs)
    return doubled, torch.cat([target, target]) if isinstance(target, Tensor) else target


def _in_double(model: nn.Module | ExportedProgram, inputs: Inputs) -> tuple[nn.Module | ExportedProgram, Inputs]:
    """Bring a module and its inputs to 64-bit precision, on copies; an exported program is fixed to its own."""

    def widened(leaf: Any) -> Any:
        leaf = leaf_copy(leaf)
        return leaf.double() if isinstance(model, nn.Module) and is_float(leaf) else leaf

    inputs = pytree.tree_map(widened, inputs)
    if isinstance(model, ExportedProgram):
        return model, inputs
    held = [tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()]
    if held and set(held) == {torch.float64}:
        return model, inputs
    return copy.deepcopy(model).double().requires_grad_(False), inputs
