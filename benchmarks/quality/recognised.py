"""The pictures that a classifier classifies right: with their object outlined, or with their class alone.

Of the COCO pictures those count whose most likely class names the main object, where the crop shows any of it; the
mask goes through the same resizing and cropping as the picture. Of the labelled ImageNet pictures those that are
classified right, in an order drawn from a seed. Both are cut into two halves, drawn from the same seed: choices are
made on one, and what was chosen is reported on the other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.quality.classifiers import CLASSIFIERS, Setting
from benchmarks.quality.coco import Coco, DataError
from relprop.gae.states import PICTURE
from relprop.models import load_classifier

SEED = 0


class Half(StrEnum):
    """Which half of the pictures: the one that choices are made on, or the one that is reported."""

    CHOOSE = "choose"
    REPORT = "report"

    def holds(self, place: int) -> bool:
        """Whether a place in the drawn order is in this half."""
        return place % 2 == (self is Half.REPORT)


@dataclass(frozen=True)
class Pictures:
    """Pictures as the model sees them, ``(B, C, H, W)``, their classes and which of all samples they are.

    ``masks`` are the outlines of their objects, bool ``(B, H, W)``, where these are known; ``state`` is what they show
    of the sample, see `relprop.gae.states`.
    """

    x: Tensor
    target: Tensor
    indices: tuple[int, ...]
    masks: Tensor | None = None
    state: int = PICTURE


@dataclass(frozen=True)
class Recognised:
    """A model with real weights and the pictures that it recognises: outlined objects, and labelled pictures."""

    name: str
    model: nn.Module
    setting: Setting
    objects: Pictures
    labelled: Pictures


def recognise(name: str, shared: Path, objects: int | None, pictures: int, half: Half) -> Recognised:
    """Load a model and find what it recognises.

    Parameters
    ----------
    name
        One of `CLASSIFIERS`.
    shared
        The folder that holds ``assets/``.
    objects, pictures
        How many of each kind, at most; None are all.
    half
        Of which they are.

    Raises
    ------
    DataError
        The weights or the pictures aren't there, or there is no such model.
    """
    setting, coco = setting_of(name), Coco.open(shared)
    model = load_classifier(name, coco.weights_of(setting.weights)).model
    assert isinstance(model, nn.Module)
    outlined = list(islice(_objects(model, setting, coco, half), objects))
    labelled = list(islice(_labelled(model, setting, shared, half), pictures))
    return Recognised(
        name,
        model.requires_grad_(False),
        setting,
        Pictures(
            *_collate([(x, target, index) for x, target, index, _ in outlined]),
            torch.stack([mask for *_, mask in outlined]),
        ),
        Pictures(*_collate(labelled)),
    )


def setting_of(name: str) -> Setting:
    """Return what is known of a classifier, or raise `DataError`."""
    if name not in CLASSIFIERS:
        raise DataError(f"no weights known for {name}; there are: {', '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name]


def _objects(model: nn.Module, setting: Setting, coco: Coco, half: Half) -> Iterator[tuple[Tensor, int, int, Tensor]]:
    """Yield picture ``(C, H, W)``, class, number and mask ``(H, W)`` of each whose main object the model names."""
    order = np.random.default_rng(SEED).permutation(len(coco.samples)).tolist()
    for index in (index for place, index in enumerate(order) if half.holds(place)):
        sample = coco.samples[index]
        picture, outline = sample.read()
        x, mask = setting.picture(picture), setting.mask(outline)
        target = _predict(model, x)
        if target in sample.classes and mask.any():
            yield x, target, index, mask


def _labelled(model: nn.Module, setting: Setting, shared: Path, half: Half) -> Iterator[tuple[Tensor, int, int]]:
    """Yield picture ``(C, H, W)``, class and number of each sample that is classified right."""
    for index, file, target in labelled_pictures(shared, half):
        with Image.open(file) as picture:
            x = setting.picture(picture.convert("RGB"))
        if _predict(model, x) == target:
            yield x, target, index


def labelled_pictures(shared: Path, half: Half | None = None) -> list[tuple[int, Path, int]]:
    """Return the labelled ImageNet pictures in an order drawn from a seed: number, file and class index of each.

    Parameters
    ----------
    shared
        The folder that holds ``assets/``.
    half
        The half that is wanted; by default all.

    Raises
    ------
    DataError
        They aren't there.
    """
    folder = shared / "assets" / "images" / "imagenet1k_one_per_class"
    if not (folder / "labels.csv").is_file():
        raise DataError(f"no {folder / 'labels.csv'}: pass --shared DIR, the folder that holds assets/images")
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(SEED).permutation(len(rows)).tolist()
    wanted = [index for place, index in enumerate(order) if half is None or half.holds(place)]
    return [(index, folder / rows[index]["file"], int(rows[index]["class_index"])) for index in wanted]


def _predict(model: nn.Module, x: Tensor) -> int:
    """Return the most likely class of a picture ``(C, H, W)``."""
    with torch.inference_mode():
        return int(model(x[None]).argmax())


def _collate(found: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return pictures ``(B, C, H, W)``, classes ``(B,)`` and numbers, of each picture ``(C, H, W)`` with the two."""
    x, target, indices = zip(*found, strict=True)
    return torch.stack(x), torch.tensor(target), indices
