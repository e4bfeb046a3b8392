"""torchvision's classifiers, and its segmentation models with a class inside a mask as their target."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from benchmarks.zoo.entries import Entry, Subject
from benchmarks.zoo.weights import settle

INPUT_SIZES = {"inception_v3": 299}
"""Side of the pictures of classifiers that can't do with 224."""
CATEGORIES = 21
CATEGORY = 12


def classifiers() -> list[Entry]:
    """Return every classifier, small to large."""
    names = models.list_models(module=models)
    return [
        Entry(
            "torchvision", name, models.get_model_builder(name).__module__.rpartition(".")[2], partial(classify, name)
        )
        for name in sorted(names, key=_parameters)
    ]


def segmentations() -> list[Entry]:
    """Return every segmentation model, small to large."""
    names = models.list_models(module=models.segmentation)
    return [
        Entry("torchvision", name, name.partition("_")[0], partial(segment, name))
        for name in sorted(names, key=_parameters)
    ]


def classify(name: str, samples: int) -> Subject:
    """Make a classifier with pictures of noise."""
    size = INPUT_SIZES.get(name, 224)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # theirs takes minutes
    return _subject(name, samples, size, {}, **options)


def segment(name: str, samples: int) -> Subject:
    """Make a segmentation model; its target is the sum of one category's logits in the middle of the picture."""
    size = 96
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[size // 4 : -size // 4, size // 4 : -size // 4] = True
    options = {"output": "out", "target": partial(inside, mask=mask, category=CATEGORY)}
    return _subject(name, samples, size, options, weights_backbone=None, num_classes=CATEGORIES)


def inside(logits: Tensor, *, mask: Tensor, category: int) -> Tensor:
    """Sum a category's logits ``(B, categories, H, W)`` inside a mask ``(H, W)``."""
    return (logits[:, category] * mask).sum((1, 2))


def _subject(name: str, samples: int, size: int, explaining: dict[str, Any], **making: Any) -> Subject:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = models.get_model(name, weights=None, **making)
    x = torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1))
    return Subject(settle(model, x), x, options=explaining)


def _parameters(name: str) -> tuple[int, str]:
    return models.get_model_weights(name).DEFAULT.meta["num_params"], name
