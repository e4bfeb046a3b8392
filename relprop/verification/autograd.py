"""The plain input gradient by autograd, on copies of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from relprop.assign.targets import Target
from relprop.tracing.inputs import Inputs
from relprop.tracing.model_copy import callable_copy
from relprop.tracing.outputs import choose_output, explained
from relprop.tracing.undisturbed import undisturbed


def runnable_copy(model: nn.Module | ExportedProgram) -> nn.Module:
    """Return a module one may hook and call, with the model's own parameters."""
    return callable_copy(model.module() if isinstance(model, ExportedProgram) else model)[0]


def input_gradient(
    model: nn.Module, inputs: Inputs, target: Target, at: str | None, output: str | int | None
) -> list[Tensor]:
    """Return the plain gradient of the target, a function or classes ``(B,)``, for each source, shaped like it."""
    calls: list[list[Tensor]] = []

    def capture_source(module: nn.Module, args: Any, value: Any) -> Any:
        leaves, spec = pytree.tree_flatten(value)
        made = {id(leaf): leaf.detach().requires_grad_() for leaf in leaves if is_float(leaf)}
        calls.append(list(made.values()))
        # Clones, as below
        return pytree.tree_unflatten([made[id(leaf)].clone() if id(leaf) in made else leaf for leaf in leaves], spec)

    if at is None:
        marked = zip(inputs.tensors, inputs.batched, strict=True)
        calls += [[tensor.requires_grad_()] for tensor, batched in marked if batched and is_float(tensor)]
    else:
        model.get_submodule(at).register_forward_hook(capture_source)
    with torch.enable_grad(), undisturbed(model):
        args, kwargs = inputs.map(lambda tensor, _: tensor.clone())  # a leaf can't be changed in place
        function = target if callable(target) else None
        result, _ = choose_output(explained(model(*args, **kwargs), function, output), None)
        chosen = result.gather(1, target[:, None]) if isinstance(target, Tensor) else result
        sources = [source for call in calls for source in call]
        found = iter(torch.autograd.grad(chosen.sum(), sources, allow_unused=True))
    # Of the several tensors of a call at most one is used further, which is the source; captures refuse others.
    by_call = [[(source, next(found)) for source in call] for call in calls]
    used = [next((pair for pair in call if pair[1] is not None), call[0]) for call in by_call]
    return [torch.zeros_like(source) if gradient is None else gradient for source, gradient in used]


def detached_copy(inputs: Inputs) -> Inputs:
    """Return copies of the tensors with no history."""
    return inputs.replace(lambda tensor, _: tensor.detach().clone())


def is_float(leaf: Any) -> bool:
    """Whether something is a floating-point tensor."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
