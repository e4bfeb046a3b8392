"""A classifier: a model with all that is needed to feed it and to read its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.models.answers import count_classes, fit_channels, own_labels
from relprop.models.devices import device_of
from relprop.models.errors import ModelError as ModelError
from relprop.models.errors import UnknownModelError as UnknownModelError
from relprop.models.labels import check_count, imagenet_labels, read_labels
from relprop.models.preprocessing import Floats, Picture, Preprocessing, bands_of, find_preprocessing
from relprop.models.view import View, find_view, size_of
from relprop.pictures.bands import read_bands
from relprop.printed import Printed, Table
from relprop.tracing.outputs import choose_output


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
        """Call the model on (B, C, H, W), and choose the output, (B, classes)."""
        return choose_output(self.model(x), self.output)[0]


@dataclass(frozen=True, repr=False)
class Classifier(Printed):
    """A classifier with all that is needed to feed it and to read its answer.

    Attributes
    ----------
    name
        The name it was loaded by.
    model
        The network, in eval mode, its parameters as they were loaded; or an exported program.
    labels
        Class names, by index.
    transform
        PIL or uint8 RGB picture (H, W, 3) -> normalised float tensor (C, h, w). Of models of other channels than three
        the picture is as `read` returns it.
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

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        name: str | None = None,
        labels: Sequence[str] | str | PathLike[str] | None = None,
        transform: Callable[[Any], Tensor] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        weights: Any = None,
        processor: Any = None,
        output: str | None = None,
    ) -> Classifier:
        """Make a classifier of a module of one's own, which is not changed.

        Parameters
        ----------
        model : nn.Module
            In evaluation mode.
        name : str, optional
            What it is called; else its class.
        labels : sequence of str, or path, optional
            Names of the classes, or a file of them; else what ``weights`` or the model say (a Hugging Face ``config``,
            a timm ``pretrained_cfg``), ImageNet's where there are as many, or numbers.
        transform : callable, optional
            From a PIL picture to the model's input (C, h, w); with ``mean`` and ``std`` of its normalisation, where it
            is no ``Compose`` of torchvision that ends in ``Normalize``. Without one what ``weights`` or ``processor``
            do, else what the model's ``pretrained_cfg`` says, else ImageNet's is assumed. With more than three values
            of ``mean`` it takes an array (H, W, channels), uint8 or float32 in [0, 1].
        mean, std : sequence of float, optional
            Of the normalisation, per channel, for values in [0, 1].
        weights : torchvision WeightsEnum, optional
            What the model was made with, ``ResNet18_Weights.DEFAULT``.
        processor : Hugging Face image processor, optional
            What comes with the model, ``AutoImageProcessor.from_pretrained(...)``.
        output : str, optional
            Which output has the classes, where the model returns several; ``"logits"`` of a Hugging Face model.

        Raises
        ------
        ModelError
            It is no module, is in training mode, fails on a picture, or is no classifier.
        LabelsError
            The class names can't be read, or are not as many as the classes.
        TransformError
            The transform fails, or its normalisation is not known.

        Examples
        --------
        >>> from torch import nn
        >>> from relprop.models import Classifier
        >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
        >>> Classifier.of(net, labels=["cat", "dog"]).labels
        ('cat', 'dog')
        """
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"Classifier.of takes an nn.Module, not a {type(model).__name__}: names of models, and paths of files, "
                "go to load_classifier"
            )
        name = name or type(model).__name__
        if model.training:
            raise ModelError(f"{name} is in training mode: call model.eval() first")
        used = find_preprocessing(model, transform=transform, mean=mean, std=std, weights=weights, processor=processor)
        if output is None and hasattr(getattr(model, "config", None), "id2label"):
            output = "logits"
        if transform is None and weights is None and processor is None:
            used, classes = fit_channels(name, model, used, output)
        else:
            classes = count_classes(name, model, used, output)
        if labels is None:
            given = getattr(weights, "meta", {}).get("categories") or own_labels(model) or imagenet_labels(classes)
        else:
            given = read_labels(Path(labels)) if isinstance(labels, str | PathLike) else labels
        check_count(tuple(given), "labels", classes, name)
        origin = f"weights {weights}" if weights is not None else "as they are in the model"
        return cls(name, model, tuple(given), used.transform, used.mean, used.std, origin, used.assumed, output)

    def titles(self, explanation: Any) -> list[str]:
        """Return for each sample of an explanation the name of the class explained, and its probability."""
        pairs = zip(explanation.target.tolist(), explanation.probability.tolist(), strict=True)
        return [self.labels[k] + (f" {p:.1%}" if isfinite(p) else "") for k, p in pairs]

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

    @property
    def channels(self) -> int:
        """How many channels the model's input has."""
        return len(self.mean)

    def read(self, path: str | PathLike[str]) -> NDArray[Any]:
        """Read a picture as `transform` takes it: uint8 RGB (H, W, 3), or as many channels as the model has.

        Raises
        ------
        PictureError
            It can't be read, or has another number of channels.
        """
        return read_bands(path, bands_of(self.transform))

    def pictures(self, x: Tensor) -> NDArray[np.uint8]:
        """Return a batch (B, C, H, W) as the pictures (B, H, W, 3), uint8 RGB, that the model saw.

        Of more channels than three the first three are its colours; one or two are shown as the first, in grey.
        """
        seen = self.preprocessing.undo(x.detach().float()).clamp(0, 1)
        seen = (seen[:, :3] if len(self.mean) >= 3 else seen[:, :1].expand(-1, 3, -1, -1)).permute(0, 2, 3, 1)
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
