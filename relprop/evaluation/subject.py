"""The model under evaluation: how it is called, how pictures are prepared for it, what identifies it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.errors import InputError, first_line
from relprop.evaluation.data.datasets import describe_function
from relprop.explanation.provenance import state_of_model, weights_sha256
from relprop.gae.checks import check_model
from relprop.models import Classifier, ModelError, load_classifier
from relprop.models.answers import fit_channels
from relprop.models.devices import device_of, find_device, move
from relprop.models.preprocessing import Picture, from_module
from relprop.tracing.loading import callable_program


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model and what is known of it.

    Parameters
    ----------
    call : callable
        From pictures ``(B, C, H, W)`` to logits ``(B, classes)``.
    given : nn.Module, ExportedProgram or callable
        As it was given, for methods.
    name : str
        Of the model.
    device : torch.device
        Where it is.
    dtype : torch.dtype
        What its input must be.
    transform : callable, optional
        From a picture to its input, ``(C, H, W)``.
    class_names : tuple of str
        Empty where not known.
    classifier : Classifier, optional
        Where it came with all that.
    """

    call: Callable[[Tensor], Tensor]
    given: Any
    name: str
    device: torch.device
    dtype: torch.dtype
    transform: Callable[[Picture], Tensor] | None
    class_names: tuple[str, ...]
    classifier: Classifier | None

    def identity(self) -> dict[str, Any]:
        """Return name and hash of the weights, for a file's configuration."""
        return {"name": self.name, "sha256": weights_sha256(self.given), "dtype": str(self.dtype)}

    def preparation(self) -> str | None:
        """Return words for the transform, for a file's configuration."""
        if self.transform is None:
            return None
        return describe_function(getattr(self.transform, "steps", self.transform))


def prepare_model(
    model: Any, *, transform: Callable[[Picture], Tensor] | None = None, device: str | None = None
) -> EvaluatedModel:
    """Make an evaluated model of whatever the user gave as the model.

    Parameters
    ----------
    model
        A module, an exported program, a `Classifier`, the name of one for `load_classifier`, or a callable.
    transform : callable, optional
        From a picture to the model's input, ``(C, H, W)``; by default the classifier's own, or what a timm-style
        ``pretrained_cfg`` says.
    device : str, optional
        Where it shall run; a module that is elsewhere is copied there.

    Raises
    ------
    InputError, CaptureError
        The model is none, or is in training mode.
    DeviceError
        There is no such device.
    """
    if isinstance(model, str | PathLike):
        model = load_classifier(model, device=device)
    classifier = model if isinstance(model, Classifier) else None
    given = classifier.model if classifier is not None else model
    place = None if device is None else find_device(device)
    if isinstance(given, nn.Module | ExportedProgram) and place not in (None, device_of(given)):
        given = copy.deepcopy(given)  # moving the user's own would change it
        assert place is not None
        move(given, place)
    call = callable_program(given) if isinstance(given, ExportedProgram) else given
    check_model(call)
    is_module = isinstance(given, nn.Module | ExportedProgram)
    if transform is None:
        transform = classifier.transform if classifier is not None else _own_transform(given)
    return EvaluatedModel(
        call,
        given,
        classifier.name if classifier is not None else getattr(given, "__name__", type(given).__name__),
        device_of(given) if is_module else place or torch.device("cpu"),
        _dtype(given),
        transform,
        classifier.labels if classifier is not None else (),
        classifier,
    )


def count_classes(subject: EvaluatedModel, x: Tensor) -> int:
    """Run the model on pictures ``(B, C, H, W)``, and return how many classes it has.

    Raises
    ------
    InputError
        It fails on them, or returns no logits.
    """
    try:
        with torch.no_grad():
            output = subject.call(x.to(subject.device))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"the model fails on pictures {tuple(x.shape)}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"the model must return logits ({len(x)}, classes), not {found}")
    if output.shape[1] < 2:
        raise InputError("the model has a single output: contrastiveness compares classes, so it takes two at least")
    return int(output.shape[1])


def _dtype(model: Any) -> torch.dtype:
    tensors = (value for value in (state_of_model(model) or {}).values() if isinstance(value, Tensor))
    return next((value.dtype for value in tensors if value.is_floating_point()), torch.float32)


def _own_transform(model: Any) -> Callable[[Picture], Tensor] | None:
    """Return a module's own transform, from a picture to ``(C, H, W)``; nothing is assumed."""
    has_config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not isinstance(model, nn.Module) or not has_config:
        return None
    own = from_module(model)
    try:
        return fit_channels(type(model).__name__, model, own, None)[0].transform
    except ModelError:  # tensors may come that have another size than the pictures it was trained on
        return own.transform
