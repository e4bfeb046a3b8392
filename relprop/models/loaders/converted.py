"""Classifiers in files of other libraries: ONNX graphs and Keras models."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from relprop.models.answers import fit_channels
from relprop.models.classifier import Loaded, ModelError
from relprop.models.loaders.weights import WeightsError
from relprop.models.preprocessing import Preprocessing, assume_imagenet
from relprop.tracing.converted import load_converted


class ChannelsFirst(nn.Module):
    """A model of pictures (B, H, W, C) as one of pictures (B, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Call the model on (B, C, H, W) with the channels last, (B, H, W, C)."""
        found: Tensor = self.model(x.permute(0, 2, 3, 1))
        return found


def load_file(
    name: str,
    weights: Path | None,
    chosen: Preprocessing | None,
    place: torch.device | None = None,
    output: str | None = None,
) -> Loaded:
    """Load a ``.onnx`` or ``.keras`` file.

    Raises
    ------
    CaptureError
        It is missing, or can't be read or converted.
    ModelError
        It is no classifier of pictures.
    WeightsError
        Weights are given as well.
    """
    if weights is not None:
        raise WeightsError(f"{name} carries its own weights: leave out --weights {weights}")
    model, shape = load_converted(name)
    if len(shape) != 4:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ModelError(f"{name} takes ({sizes}), not one batch of pictures (B, channels, h, w)")
    if shape[3] is not None and (shape[1] is None or shape[3] < shape[1]):  # fewer channels than rows
        model, shape = ChannelsFirst(model).eval(), (shape[0], shape[3], *shape[1:3])
    if place is not None:
        model.to(place)
    preprocessing = (chosen or assume_imagenet(shape[2] or 224, shape[3] or 224)).with_channels(shape[1] or 3)
    preprocessing, classes = fit_channels(name, model, preprocessing, output)
    return Loaded(name, model, preprocessing, f"file {name}", classes)
