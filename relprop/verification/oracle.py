"""The gradient oracle: under the rule set ``gradient`` a program must return what autograd returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.assign.targets import Target, check_inputs
from relprop.errors import CaptureError, InputError, TargetError
from relprop.explainer import Explainer
from relprop.tracing.capture import Model, batched_inputs, opened
from relprop.tracing.export import no_autocast
from relprop.tracing.model_copy import callable_copy
from relprop.tracing.outputs import choose_output, explained

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


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


def runnable_copy(model: nn.Module | ExportedProgram) -> nn.Module:
    """Return a module one may hook and call, with the model's own parameters."""
    return callable_copy(model.module() if isinstance(model, ExportedProgram) else model)[0]


def input_gradient(
    model: nn.Module, inputs: Inputs, target: Target, at: str | None, output: str | int | None
) -> list[Tensor]:
    """Return the plain gradient of the target, a function or one class per sample, with respect to each source."""
    calls: list[list[Tensor]] = []

    def capture_source(module: nn.Module, args: Any, value: Any) -> Any:
        leaves, spec = pytree.tree_flatten(value)
        made = {id(leaf): leaf.detach().requires_grad_() for leaf in leaves if is_float(leaf)}
        calls.append(list(made.values()))
        # Clones, as below
        return pytree.tree_unflatten([made[id(leaf)].clone() if id(leaf) in made else leaf for leaf in leaves], spec)

    if at is None:
        leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        marked = zip(leaves, batched_inputs(*inputs), strict=True)
        calls += [[leaf.requires_grad_()] for leaf, batched in marked if batched and is_float(leaf)]
    else:
        model.get_submodule(at).register_forward_hook(capture_source)
    with torch.enable_grad():
        args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, inputs)  # a leaf can't be changed in place
        function = target if callable(target) else None
        result, _ = choose_output(explained(model(*args, **kwargs), function, output), None)
        chosen = result.gather(1, target[:, None]) if isinstance(target, Tensor) else result
        sources = [source for call in calls for source in call]
        found = iter(torch.autograd.grad(chosen.sum(), sources, allow_unused=True))
    # Of the several tensors of a call at most one is used further, which is the source; captures refuse others.
    by_call = [[(source, next(found)) for source in call] for call in calls]
    used = [next((pair for pair in call if pair[1] is not None), call[0]) for call in by_call]
    return [torch.zeros_like(source) if gradient is None else gradient for source, gradient in used]


def leaf_copy(leaf: Any) -> Any:
    """Return a copy of a tensor with no history; anything else as it is."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def is_float(leaf: Any) -> bool:
    """Whether something is a floating-point tensor."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
