"""A classifier: a model with all that is needed to feed it and to read its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.errors import RelpropError
from relprop.models.devices import device_of
from relprop.models.preprocessing import Floats, Picture, Preprocessing
from relprop.models.view import View, find_view, size_of
from relprop.printed import Printed, Table
from relprop.tracing.outputs import choose_output


class ModelError(RelpropError, ValueError):
    """A model that can't be made or run, or that is no classifier of pictures."""


class UnknownModelError(ModelError, LookupError):
    """A model name that stands for nothing: no architecture, no file, no function."""


@dataclass(frozen=True)
class Loaded:
    """A model as it was found, before its classes are named.

    Attributes
    ----------
    name, model, origin
        As in `Classifier`.
    preprocessing
        What is done to a picture before the model sees it.
    classes
        How many.
    labels
        Class names, where the model brought them.
    """

    name: str
    model: nn.Module | ExportedProgram
    preprocessing: Preprocessing
    origin: str
    classes: int
    labels: tuple[str, ...] | None = None


class OneOutput(nn.Module):
    """A model with several outputs as one that returns that of its classes."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Call the model, and choose the output."""
        return choose_output(self.model(x), self.output)[0]


@dataclass(frozen=True, repr=False)
class Classifier(Printed):
    """A classifier with all that is needed to feed it and to read its answer.

    Attributes
    ----------
    name
        The name it was asked for.
    model
        The network, in eval mode, its parameters as they were loaded; or an exported program.
    labels
        Class names, by index.
    transform
        PIL or uint8 RGB picture (H, W, 3) -> normalised float tensor (3, h, w).
    mean, std
        What `transform` normalises with, per channel, for values in [0, 1].
    origin
        Where the weights came from.
    assumed
        What had to be assumed of the preprocessing, for people to read; empty where it is known.
    output
        Which output has the classes, where the model returns several.
    """

    name: str
    model: nn.Module | ExportedProgram
    labels: tuple[str, ...]
    transform: Callable[[Picture], Tensor]
    mean: Floats
    std: Floats
    origin: str
    assumed: str = ""
    output: str | None = None
    _views: dict[tuple[int, int], View] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _blocks(self) -> list[str | Table]:
        few = ", ".join(self.labels[:3]) + (" ..." if len(self.labels) > 3 else "")
        facts = [
            ["classes", f"{len(self.labels)}: {few}"],
            ["weights", self.origin],
            ["device", str(self.device)],
            ["preprocessing", self.assumed or str(getattr(self.transform, "steps", self.transform))],
        ]
        return [f"Classifier {self.name}", Table((), facts, words=2)]

    @property
    def scores(self) -> nn.Module:
        """The model as a module from a batch to ``(B, classes)``."""
        model: nn.Module = self.model.module() if isinstance(self.model, ExportedProgram) else self.model
        if self.output is None:
            return model
        alone = OneOutput(model, self.output)
        alone.training = False  # the modules of an exported program refuse eval()
        return alone

    def alone(self) -> Classifier:
        """Return the classifier whose model returns its classes alone."""
        return self if self.output is None else replace(self, model=self.scores, output=None)

    @property
    def device(self) -> torch.device:
        """Where the model is, and its input has to go."""
        return device_of(self.model)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a picture before the model sees it."""
        return Preprocessing(self.transform, self.mean, self.std, self.assumed)

    def pictures(self, x: Tensor) -> NDArray[np.uint8]:
        """Return a batch (B, C, H, W) as the pictures (B, H, W, C), uint8 RGB, that the model saw."""
        seen = self.preprocessing.undo(x.detach().float()).clamp(0, 1).permute(0, 2, 3, 1)
        return np.asarray((seen * 255).round().to(torch.uint8).cpu().numpy())

    def view(self, picture: Picture) -> View:
        """Find out where on a picture the model looks; found once for all pictures of a size.

        Raises
        ------
        ViewError
            `transform` does more than to resize, crop and pad, or the picture is too small to tell.
        """
        size = size_of(picture)
        if size not in self._views:
            self._views[size] = find_view(self.preprocessing, size)
        return self._views[size]
