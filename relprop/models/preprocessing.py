"""What is done to a picture before a model sees it, and undoing its normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import PretrainedCfg
from torch import Tensor, nn

from relprop.errors import RelpropError, first_line

Picture = Image.Image | NDArray[np.uint8]
Floats = tuple[float, ...]

CLASSIC_CROP = 0.875
"""The share of the short side that ImageNet classifiers have been shown since AlexNet: 224 of 256."""


BLANK: NDArray[np.uint8] = np.zeros((64, 64, 3), np.uint8)
"""A picture for trying things out."""


class TransformError(RelpropError, ValueError):
    """A transform that fails on a picture, or makes something else than a picture of it."""


@dataclass(frozen=True)
class PictureTransform:
    """A chain of steps for PIL pictures, usable on arrays alike.

    Attributes
    ----------
    steps
        RGB PIL picture -> normalised tensor (3, h, w).
    """

    steps: Callable[[Image.Image], Tensor]

    def __call__(self, picture: Picture) -> Tensor:
        """Transform a PIL picture of any mode, or a uint8 RGB array (H, W, 3)."""
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        return self.steps(image.convert("RGB"))


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to the model's input, and the normalisation's way back.

    Attributes
    ----------
    transform
        PIL or uint8 RGB picture -> normalised float tensor (3, h, w).
    mean, std
        What `transform` normalises with, per channel, for values in [0, 1].
    assumed
        What had to be assumed, for people to read; empty where the preprocessing is known.
    """

    transform: Callable[[Picture], Tensor]
    mean: Floats
    std: Floats
    assumed: str = ""

    def undo(self, x: Tensor) -> Tensor:
        """Return normalised pictures (..., C, H, W) as values in [0, 1] before normalisation."""
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return x * std + mean


def from_config(config: Mapping[str, Any]) -> Preprocessing:
    """Follow a timm configuration (``input_size``, ``crop_pct``, ``crop_mode``, ``mean`` ...)."""
    resolved = resolve_data_config(pretrained_cfg=dict(config) or {"input_size": (3, 224, 224)})
    steps = create_transform(**resolved, is_training=False)
    return Preprocessing(PictureTransform(steps), tuple(resolved["mean"]), tuple(resolved["std"]))


def from_preset(steps: Any) -> Preprocessing:
    """Follow a preset of torchvision."""
    return Preprocessing(PictureTransform(steps), tuple(steps.mean), tuple(steps.std))


def from_module(model: nn.Module) -> Preprocessing:
    """Follow the configuration that a timm-style module carries; without one assume ImageNet's."""
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(config, PretrainedCfg):
        config = config.to_dict()
    return from_config(config) if isinstance(config, Mapping) and config else assume_imagenet(224, 224)


def find_preprocessing(
    model: nn.Module,
    *,
    transform: Callable[[Any], Tensor] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: Any = None,
    processor: Any = None,
) -> Preprocessing:
    """Follow what was given beside a module, see `Classifier.of`; else the module's own configuration.

    Raises
    ------
    TransformError
        Several of them were given, or a transform whose normalisation is not known.
    """
    given = [name for name, it in (("transform", transform), ("weights", weights), ("processor", processor)) if it]
    if len(given) > 1:
        raise TransformError(f"{' and '.join(given)} all say how pictures are prepared: give one of them")
    if weights is not None:
        return from_preset(weights.transforms())
    if processor is not None:
        return from_processor(processor)
    if transform is None:
        return from_module(model)
    last = getattr(transform, "transforms", [transform])[-1]
    mean, std = (given or getattr(last, key, None) for key, given in (("mean", mean), ("std", std)))
    if mean is None or std is None:
        raise TransformError("what the transform normalises with is not known: give mean= and std=, per channel")
    return Preprocessing(PictureTransform(transform), tuple(map(float, mean)), tuple(map(float, std)))


def from_processor(processor: Any) -> Preprocessing:
    """Follow an image processor of Hugging Face."""
    plain = not getattr(processor, "do_normalize", True)
    mean = (0.0,) * 3 if plain else tuple(map(float, processor.image_mean))
    std = (1.0,) * 3 if plain else tuple(map(float, processor.image_std))

    def prepare(picture: Image.Image) -> Tensor:
        prepared: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        return prepared

    return Preprocessing(PictureTransform(prepare), mean, std)


def assume_imagenet(height: int, width: int) -> Preprocessing:
    """Assume what most classifiers were trained with: ImageNet's mean and std, the middle of the picture."""
    steps = create_transform(
        (3, height, width), crop_pct=CLASSIC_CROP, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD
    )
    assumed = (
        f"nothing says how pictures are prepared for this model: assumed are ImageNet's mean and standard deviation, "
        f"and the middle {CLASSIC_CROP:.1%} of the picture at {width} x {height} pixels"
    )
    return Preprocessing(PictureTransform(steps), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, assumed)


def blank_input(preprocessing: Preprocessing) -> Tensor:
    """Return what a blank picture becomes: (3, h, w)."""
    return apply(preprocessing.transform, BLANK)


def apply(transform: Callable[[Picture], Tensor], picture: Picture) -> Tensor:
    """Transform a picture.

    Raises
    ------
    TransformError
        The transform fails, or returns anything but a tensor (3, h, w).
    """
    try:
        x = transform(picture)
    except Exception as error:  # whatever the transform raises
        raise TransformError(
            f"the transform fails on a picture: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] != 3:
        what = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise TransformError(f"the transform returns {what}, not a picture (3, h, w)")
    return x
