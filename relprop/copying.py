"""Structural copies of models: new module objects around the very same tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn


def held_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor a model holds, by path: parameters, buffers, and tensors that are plain attributes."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}".lstrip("."), value


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules but none of its tensors.

    Tracing patches and even calls modules; on a copy that disturbs nobody who uses the model meanwhile.
    """
    memo: dict[int, object] = {id(tensor): tensor for _, tensor in held_tensors(model)}
    return copy.deepcopy(model, memo)


def fingerprint(model: nn.Module) -> tuple[object, ...]:
    """Identity of a model's structure and tensors: another fingerprint means another graph.

    Values of parameters are not part of it, since a graph refers to the tensors themselves.
    """
    modules = tuple(
        (path, type(module), module.training, module.extra_repr()) for path, module in model.named_modules()
    )
    tensors = tuple(
        (name, id(tensor), tensor.dtype, tensor.device, tuple(tensor.shape))
        for name, tensor in held_tensors(model)
    )
    return modules, tensors
