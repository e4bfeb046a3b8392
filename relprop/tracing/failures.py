"""Who failed: the model on the user's own input, or a copy of it on two samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from relprop.errors import CaptureError, InputError, RelpropError
from relprop.tracing.causes import cause_of
from relprop.tracing.inputs import Inputs
from relprop.tracing.undisturbed import undisturbed


def failure(model: nn.Module | ExportedProgram, given: Inputs, error: Exception) -> RelpropError:
    """Return the error to raise where a copy of a model failed on two samples of an input.

    The model itself is called on the input as it was given, and put back: an error may blame it only if it fails there.
    """
    name = type(model).__name__
    own = _error_of(model, given)
    if own is not None:
        held = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
        weights = "" if held is None else f"; its weights are {held.dtype} on {held.device}"
        return InputError(
            f"{name} fails on an input of {given.describe()}{weights}, the first axis being the batch: "
            f"{type(own).__name__}: {cause_of(own)}{_by_name(given)}"
        )
    what = f"{type(error).__name__}: {cause_of(error)}"
    if given.batch_size != 2:
        return CaptureError(
            f"{name} takes a batch of {given.batch_size}, and fails on one of 2, where its graph must hold for every "
            f"batch: {what}. Is a batch size fixed in the code, or in another input?"
        )
    return CaptureError(
        f"{name} takes the input, but a copy of it, which is what relprop calls, does not: {what}. Does its code, or a "
        "hook, refer to the model or to a part of it by another way than its attributes?"
    )


def _error_of(model: nn.Module | ExportedProgram, given: Inputs) -> Exception | None:
    with undisturbed(model, whole=True):
        args, kwargs = given.map(lambda tensor, _: tensor.clone())
        try:
            (model.module() if isinstance(model, ExportedProgram) else model)(*args, **kwargs)
        except Exception as error:  # whatever the model raises
            return error
    return None


def _by_name(given: Inputs) -> str:
    """Return advice where a dict is given in the place of arguments by name."""
    first: Any = given.args[0] if given.args else None
    if not isinstance(first, Mapping):
        return ""
    return f". Where the model takes {', '.join(map(str, first))} by name, pass x=() and kwargs=dict(x)"
