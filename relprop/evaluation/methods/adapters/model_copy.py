"""Copies of a model for libraries that put hooks into it, switch its modules, and fill in its gradients."""

from __future__ import annotations

from torch import Tensor, nn

from relprop.errors import near_names
from relprop.evaluation.methods.base import MethodError
from relprop.tracing.model_copy import structural_copy


def private_copy(model: nn.Module) -> nn.Module:
    """Copy a model so that nothing done to the copy's modules reaches the model; its weights are shared.

    Parameters are new objects around the same memory, which need no gradient: a library that calls ``backward`` or
    ``zero_grad`` leaves the model's own alone. Activations in place are switched to ordinary ones, since hooks on them
    would see what has been overwritten.
    """
    copied = structural_copy(model)
    aliases: dict[int, nn.Parameter] = {}
    for module in copied.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                alias = nn.Parameter(parameter.detach(), requires_grad=False)
                module._parameters[name] = aliases.setdefault(id(parameter), alias)
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return copied.eval()


def require_module(model: object, what: str) -> nn.Module:
    """Refuse a model that has no modules to put hooks into."""
    if not isinstance(model, nn.Module):
        raise MethodError(f"{what} needs the model as an nn.Module, not a {type(model).__name__}")
    return model


def find_layer(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path.

    Raises
    ------
    MethodError
        There is none.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        near = near_names(path, [name for name, _ in model.named_modules()])
        raise MethodError(f"the model has no module {path!r}{near}") from error


def one_hot(output: Tensor, target: Tensor) -> Tensor:
    """Return a mask of the target class, shaped like the output."""
    return nn.functional.one_hot(target, output.shape[1]).to(output)
