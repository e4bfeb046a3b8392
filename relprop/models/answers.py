"""The classes of a model: how many there are, and their names where the model brings them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import first_line
from relprop.models.devices import device_of
from relprop.models.errors import ModelError
from relprop.models.preprocessing import Preprocessing, blank_input
from relprop.tracing.outputs import choose_output, output_names


def fit_channels(
    name: str, model: nn.Module, preprocessing: Preprocessing, choice: str | None
) -> tuple[Preprocessing, int]:
    """Run a model on two blank pictures; return its preprocessing and how many classes it has.

    Where it fails on pictures of as many channels as the preprocessing has it is tried with as many as its own layers
    take, and with one and four.

    Raises
    ------
    ModelError
        It fails on all of them, or returns anything but (B, classes).
    """
    try:
        return preprocessing, _classes(name, _call(name, model, preprocessing), choice)
    except _FailsError as failed:
        own = [layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        for channels in dict.fromkeys([*own[:1], 1, 4, *own[1:]]):
            if channels == preprocessing.channels:
                continue
            fitted = preprocessing.with_channels(channels)
            try:
                return fitted, _classes(name, _call(name, model, fitted), choice)
            except _FailsError:
                continue
        raise failed


def count_classes(name: str, model: nn.Module, preprocessing: Preprocessing, choice: str | None) -> int:
    """Run a model on two blank pictures, and return how many classes it has.

    Raises
    ------
    ModelError
        It fails, or returns anything but (B, classes).
    """
    return _classes(name, _call(name, model, preprocessing), choice)


class _FailsError(ModelError):
    """The model itself fails on a picture."""


def _call(name: str, model: nn.Module, preprocessing: Preprocessing) -> Any:
    """Return what a model makes of two blank pictures."""
    blank = blank_input(preprocessing).to(device_of(model))
    try:
        with torch.no_grad():  # inference mode would spoil what a model keeps from its first call
            return model(torch.stack([blank, blank]))
    except Exception as error:  # whatever the model raises
        raise _FailsError(
            f"{name} fails on pictures of shape {tuple(blank.shape)}: {type(error).__name__}: {first_line(error)}"
        ) from error


def _classes(name: str, returned: Any, choice: str | None) -> int:
    output = returned if choice is None else choose_output(returned, choice)[0]
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[0] != 2:
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ModelError(
            f"{name} returns {what} for 2 pictures, not one tensor (B, classes){name_output(returned, choice)}",
            output="...",
        )
    return output.shape[1]


def name_output(returned: Any, choice: str | None) -> str:
    """Return words for the end of a message about a model with several outputs: how to name one of them."""
    names = output_names(returned)
    return f": name one of its outputs with <output>, {', '.join(names)}" if choice is None and names else ""


def own_labels(model: nn.Module) -> tuple[str, ...] | None:
    """Return the names of the classes that a model brings: a Hugging Face ``config``, a timm ``pretrained_cfg``."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(names, Mapping) and names and set(names) == set(range(len(names))):
        return tuple(str(names[k]) for k in range(len(names)))
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("label_names") if isinstance(config, Mapping) else getattr(config, "label_names", None)
    return tuple(map(str, names)) if names else None
