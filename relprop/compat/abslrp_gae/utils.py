"""Pictures before and after a model: prepared, undone, and shown beside their maps."""

from __future__ import annotations

from enum import Enum

import torch
from matplotlib.figure import Figure
from PIL import Image
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from torch import Tensor
from torchvision.transforms import functional

from relprop.errors import InputError
from relprop.explanation.screen import show_figure
from relprop.pictures import SIGNED, Tile, heat_colours, tile_sheet
from relprop.pictures.tiles import scaled, sharp, tile_size

RESIZED, CROPPED = 256, 224
_EPS = 1e-9


class NormalizationType(Enum):
    """What a map is divided by: the sum of its magnitudes, or the largest."""

    SUM_TO_ONE = "abs"
    MAX_TO_ONE = "max"


def normalize_relevance(relevance: Tensor, normalization_type: NormalizationType) -> Tensor:
    """Divide the map of each sample, ``(B, ...)``, by the sum of its magnitudes or by the largest, plus 1e-9."""
    magnitudes = relevance.detach().flatten(1).abs()
    sums = normalization_type is NormalizationType.SUM_TO_ONE
    size = magnitudes.sum(1) if sums else magnitudes.amax(1)
    return relevance.detach() / (size + _EPS).reshape(-1, *[1] * (relevance.ndim - 1))


def preprocess_image(image: Image.Image, is_vision_transformer_input: bool = False) -> Tensor:
    """Return a picture as the authors prepare it: all of it at 256 x 256, the middle 224 x 224, normalised.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode; it is read as RGB.
    is_vision_transformer_input : bool
        Whether it is normalised as timm's Vision Transformers are trained (mean and deviation 0.5), or as ImageNet's.

    Returns
    -------
    Tensor
        ``(3, 224, 224)``.
    """
    pixels = functional.pil_to_tensor(image.convert("RGB")) / 255
    seen = functional.center_crop(functional.resize(pixels, [RESIZED, RESIZED], antialias=True), [CROPPED, CROPPED])
    mean, std = _scale(is_vision_transformer_input)
    found: Tensor = (seen - mean) / std
    return found


def renormalize_images(x: Tensor, is_vision_transformer_input: bool = False) -> Tensor:
    """Undo the normalisation of `preprocess_image`: pictures ``(B, 3, H, W)`` with values in [0, 1]."""
    mean, std = _scale(is_vision_transformer_input)
    return x.detach() * std.to(x) + mean.to(x)


def visualize_batch(x: Tensor, relevance: Tensor, is_vision_transformer_input: bool = False) -> Figure:
    """Show each picture beside its map, summed over channels and over its largest magnitude.

    Parameters
    ----------
    x, relevance : Tensor
        ``(B, 3, H, W)``.
    is_vision_transformer_input : bool
        As of `preprocess_image`.

    Returns
    -------
    matplotlib.figure.Figure
        What is shown; its ``savefig`` writes it.
    """
    if x.ndim != 4 or relevance.shape[:1] != x.shape[:1] or relevance.shape[-2:] != x.shape[-2:]:
        raise InputError(f"maps {tuple(relevance.shape)} are not of the pictures {tuple(x.shape)}")
    shown = renormalize_images(x.cpu().float(), is_vision_transformer_input).clamp(0, 1).permute(0, 2, 3, 1)
    pictures = (255 * shown).round().to(torch.uint8).numpy()
    summed = relevance.detach().cpu().float().sum(1)
    heats = normalize_relevance(summed, NormalizationType.MAX_TO_ONE).numpy()
    size = tile_size(pictures.shape[1:3], CROPPED)
    rows = [
        [Tile(scaled(picture, size)), Tile(heat_colours(sharp(heat, size)))]
        for picture, heat in zip(pictures, heats, strict=True)
    ]
    figure = tile_sheet(rows, legend=SIGNED, legend_column=1)
    show_figure(figure)
    return figure


def _scale(is_vision_transformer_input: bool) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the normalisation, ``(3, 1, 1)`` each."""
    if is_vision_transformer_input:
        mean, std = IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
    else:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
