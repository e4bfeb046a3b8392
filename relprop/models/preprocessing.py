"""The steps from a picture to a model's input, and the way back through the normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from torchvision.transforms import Compose, Normalize

from relprop.errors import RelpropError, first_line
from relprop.models.bandwise import Bandwise, band_steps, per_channel, split_picture
from relprop.models.bandwise import TransformError as TransformError

Picture = Image.Image | NDArray[Any]
"""PIL's, or an array (H, W, channels): uint8, or numbers in [0, 1]."""
Floats = tuple[float, ...]

CLASSIC_CROP = 0.875
"""The share of the short side that ImageNet classifiers have been shown since AlexNet: 224 of 256."""


@dataclass(frozen=True)
class PictureTransform:
    """A chain of steps for PIL pictures, usable on arrays alike.

    Attributes
    ----------
    steps
        RGB PIL picture -> normalised tensor (C, h, w); of other bands an array (H, W, bands) -> the same.
    bands
        Channels of the pictures that it takes. Colours become luminance where that is one.
    """

    steps: Callable[[Any], Tensor]
    bands: int = 3

    def __call__(self, picture: Picture) -> Tensor:
        """Transform a PIL picture of any mode, a uint8 RGB array (H, W, 3), or bands (H, W, bands), into (C, h, w)."""
        if self.bands != 3:
            return self.steps(split_picture(picture, self.bands))
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        return self.steps(image.convert("RGB"))


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to the model's input, and the normalisation's way back.

    Attributes
    ----------
    transform
        PIL or uint8 RGB picture -> normalised float tensor (C, h, w).
    mean, std
        What `transform` normalises with, per channel, for values in [0, 1].
    assumed
        What had to be assumed, in words; empty where the preprocessing is known.
    """

    transform: Callable[[Picture], Tensor]
    mean: Floats
    std: Floats
    assumed: str = ""

    @property
    def channels(self) -> int:
        """How many channels the model's input has."""
        return len(self.mean)

    def with_channels(self, channels: int) -> Preprocessing:
        """Return the same steps for pictures of so many channels, each resized and cropped by itself.

        Mean and standard deviation are its own where there is one or as many, else what the mean of the channels is.

        Raises
        ------
        TransformError
            The steps are some of the user's own, which can't be taken apart.
        """
        if channels == self.channels:
            return self
        steps = band_steps(getattr(self.transform, "steps", self.transform))
        if steps is None:
            raise TransformError(
                f"the preprocessing is one of {self.channels} channels, the model takes {channels}: give a transform "
                "with mean and std of as many values"
            )
        mean, std = per_channel(self.mean, channels), per_channel(self.std, channels)
        of = f"those of {self.channels}"
        guess = (
            f"neither mean nor standard deviation of {channels} channel{'s' * (channels > 1)} is known: assumed is "
            + (f"{of}, and their mean for the others" if channels > self.channels else f"the mean of {of}")
        )
        assumed = "; ".join(filter(None, [self.assumed, guess * (self.channels > 1)]))
        return replace(self, transform=_bandwise(steps, mean, std), mean=mean, std=std, assumed=assumed)

    def undo(self, x: Tensor) -> Tensor:
        """Return normalised pictures ``(..., C, H, W)`` as values in [0, 1] before normalisation."""
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return x * std + mean


def from_config(config: Mapping[str, Any]) -> Preprocessing:
    """Follow a timm configuration (``input_size``, ``crop_pct``, ``crop_mode``, ``mean`` ...)."""
    resolved = resolve_data_config(pretrained_cfg=dict(config) or {"input_size": (3, 224, 224)})
    (channels, *size), mean, std = resolved["input_size"], tuple(resolved["mean"]), tuple(resolved["std"])
    steps = create_transform(**resolved | {"input_size": (3, *size)}, is_training=False)
    if len(mean) != channels or channels == 3:
        return Preprocessing(PictureTransform(steps), mean, std).with_channels(channels)
    alone = band_steps(steps)
    assert alone is not None, "timm's steps end in a normalisation"
    return Preprocessing(_bandwise(alone, mean, std), mean, std)


def _bandwise(steps: Callable[[Image.Image], Tensor], mean: Floats, std: Floats) -> PictureTransform:
    """Return steps for a grey picture as a transform of all channels ``(C, h, w)``, which normalises each."""
    return PictureTransform(Compose([Bandwise(steps), Normalize(mean, std)]), len(mean))


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
    # A transform of one's own makes one channel of colours itself; of more than three it gets the bands of the file.
    bands = 3 if len(mean) <= 3 else len(mean)
    return Preprocessing(PictureTransform(transform, bands), tuple(map(float, mean)), tuple(map(float, std)))


def from_processor(processor: Any) -> Preprocessing:
    """Follow an image processor of Hugging Face."""
    plain = not getattr(processor, "do_normalize", True)
    mean = (0.0,) * 3 if plain else tuple(map(float, processor.image_mean))
    std = (1.0,) * 3 if plain else tuple(map(float, processor.image_std))

    def prepare(picture: Image.Image) -> Tensor:
        """Return what the processor makes of a picture, (3, h, w)."""
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
    """Return what a blank picture becomes: (C, h, w)."""
    return apply(preprocessing.transform, blank_picture(bands_of(preprocessing.transform)), preprocessing.channels)


def blank_picture(bands: int) -> NDArray[np.uint8]:
    """Return a picture for trying things out, (64, 64, bands)."""
    return np.zeros((64, 64, bands), np.uint8)


def bands_of(transform: Any) -> int:
    """Return how many channels pictures have that a transform takes: three, if it does not say."""
    return transform.bands if isinstance(transform, PictureTransform) else 3


def apply(transform: Callable[[Picture], Tensor], picture: Picture, channels: int | None = None) -> Tensor:
    """Transform a picture into (C, h, w).

    Raises
    ------
    TransformError
        The transform fails, or returns anything but a tensor (C, h, w), of so many channels where that is given.
    """
    try:
        x = transform(picture)
    except RelpropError:
        raise
    except Exception as error:  # whatever the transform raises
        raise TransformError(
            f"the transform fails on a picture: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] != (channels or x.shape[0]):
        what = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise TransformError(f"the transform returns {what}, not a picture ({channels or 'C'}, h, w)")
    return x
