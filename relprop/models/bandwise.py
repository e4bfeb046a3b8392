"""Pictures of one, four or more channels: each channel is resized and cropped as a grey picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from torchvision.transforms._presets import ImageClassification

from relprop.errors import RelpropError

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in a grey picture (ITU-R BT.601), as PIL has them."""


class TransformError(RelpropError, ValueError):
    """A transform that fails on a picture, or makes something else than a picture of it."""


@dataclass(frozen=True)
class Bandwise:
    """Steps for a grey picture, applied to each channel of an array.

    PIL resizes no picture of five channels, and weights the colours of one with four by the fourth, as its opacity.
    """

    steps: Callable[[Image.Image], Tensor]

    def __call__(self, bands: NDArray[Any]) -> Tensor:
        """Transform an array (H, W, C), uint8 or float32 in [0, 1], into a tensor (C, h, w) in [0, 1]."""
        planes = [Image.fromarray(np.ascontiguousarray(bands[..., k])) for k in range(bands.shape[2])]
        return torch.cat([self.steps(plane) for plane in planes]).clamp(0, 1)


def band_steps(steps: Any) -> Callable[[Image.Image], Tensor] | None:
    """Return the steps before the normalisation, from a picture to (1, h, w); None where they can't be taken apart."""
    if isinstance(steps, ImageClassification):
        size = Resize(steps.resize_size, steps.interpolation, antialias=steps.antialias)
        preset: Callable[[Image.Image], Tensor] = Compose([size, CenterCrop(steps.crop_size), ToTensor()])
        return preset
    if not isinstance(steps, Compose) or not isinstance(steps.transforms[-1], Normalize):
        return None
    first, *others = steps.transforms[:-1] or [None]
    alone: Callable[[Image.Image], Tensor] = first.steps if isinstance(first, Bandwise) else Compose([first, *others])
    return alone


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return a value for each channel: those of as many colours, and their mean for what else there is."""
    mean = sum(values) / len(values)
    first = tuple(values) if channels >= len(values) else ()
    return (*first, *[mean] * (channels - len(first)))


def split_picture(picture: Image.Image | NDArray[Any], channels: int) -> NDArray[Any]:
    """Return a picture as an array (H, W, channels): colours become luminance where that is one.

    Raises
    ------
    TransformError
        It has another number of channels.
    """
    if isinstance(picture, Image.Image):
        if picture.mode in ("P", "PA"):
            picture = picture.convert("RGBA" if "transparency" in picture.info or picture.mode == "PA" else "RGB")
        picture = np.asarray(picture.convert("L") if channels == 1 and picture.mode != "F" else picture)
    bands = picture if picture.ndim == 3 else picture[..., None]
    if channels == 1 and bands.shape[2] == 3:
        if bands.dtype == np.uint8:
            bands = np.asarray(Image.fromarray(bands).convert("L"))[..., None]
        else:
            bands = (bands @ LUMINANCE.astype(bands.dtype))[..., None]
    if bands.shape[2] != channels:
        raise TransformError(f"the picture has {bands.shape[2]} channels, the model takes {channels}")
    return bands if bands.dtype == np.uint8 else bands.astype(np.float32)
