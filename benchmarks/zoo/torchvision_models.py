"""torchvision's classifiers, its segmentation models with a class inside a mask, and the heads of its detectors."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.zoo.entries import Entry, Subject
from benchmarks.zoo.weights import settle

INPUT_SIZES = {"inception_v3": 299}
"""Side of the pictures of classifiers that can't do with 224."""
DETECTORS = {
    "ssdlite320_mobilenet_v3_large": 320,
    "fcos_resnet50_fpn": 128,
    "retinanet_resnet50_fpn": 128,
    "ssd300_vgg16": 300,
    "retinanet_resnet50_fpn_v2": 128,
}
"""Those that score boxes at all places at once, small to large, and the side of their pictures."""
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


def detectors() -> list[Entry]:
    """Return every detector whose head scores all places at once, small to large."""
    return [Entry("torchvision", name, name.partition("_")[0], partial(detect, name)) for name in DETECTORS]


class DenseHead(nn.Module):
    """A detector without what comes behind its head, which keeps some of the boxes."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return scores ``(B, places, classes)`` and boxes ``(B, places, 4)`` by name, of pictures ``(B, 3, H, W)``."""
        found: dict[str, Tensor] = self.head(list(self.backbone(x).values()))
        return found


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


def detect(name: str, samples: int) -> Subject:
    """Make a detector up to its head; its target is the sum of one category's logits over all places."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = DenseHead(models.get_model(name, weights=None, weights_backbone=None, num_classes=CATEGORIES))
    size = DETECTORS[name]
    x = torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1))
    options = {"output": "cls_logits", "target": partial(everywhere, category=CATEGORY)}
    return Subject(settle(model, x), x, options=options)


def everywhere(logits: Tensor, *, category: int) -> Tensor:
    """Sum a category's logits ``(B, places, categories)`` over all places, ``(B,)``."""
    return logits[:, :, category].sum(1)


def inside(logits: Tensor, *, mask: Tensor, category: int) -> Tensor:
    """Sum a category's logits ``(B, categories, H, W)`` inside a mask ``(H, W)``: ``(B,)``."""
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
