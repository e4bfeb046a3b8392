"""Classifiers by name: of timm and torchvision, exported programs, and models of one's own.

Names are imported when they are first used: class names and paths are checked before PyTorch is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relprop.models.classifier import Classifier, ModelError, UnknownModelError
    from relprop.models.crops import CropError, Crops, cut_crops
    from relprop.models.devices import DeviceError
    from relprop.models.labels import LabelsError
    from relprop.models.load import load_classifier
    from relprop.models.loaders.architectures import PACKAGED, ListedModel, list_models
    from relprop.models.loaders.weights import WeightsError
    from relprop.models.preprocessing import PictureTransform, TransformError
    from relprop.models.view import View, ViewError
    from relprop.pictures.reading import PictureError, find_pictures, read_picture, sample_pictures

__all__ = [
    "PACKAGED",
    "Classifier",
    "CropError",
    "Crops",
    "DeviceError",
    "LabelsError",
    "ListedModel",
    "ModelError",
    "PictureError",
    "PictureTransform",
    "TransformError",
    "UnknownModelError",
    "View",
    "ViewError",
    "WeightsError",
    "cut_crops",
    "find_pictures",
    "list_models",
    "load_classifier",
    "read_picture",
    "sample_pictures",
]

_HOMES = {
    "relprop.models.classifier": ("Classifier", "ModelError", "UnknownModelError"),
    "relprop.models.crops": ("CropError", "Crops", "cut_crops"),
    "relprop.models.devices": ("DeviceError",),
    "relprop.models.labels": ("LabelsError",),
    "relprop.models.load": ("load_classifier",),
    "relprop.models.loaders.architectures": ("PACKAGED", "ListedModel", "list_models"),
    "relprop.models.loaders.weights": ("WeightsError",),
    "relprop.models.preprocessing": ("PictureTransform", "TransformError"),
    "relprop.models.view": ("View", "ViewError"),
    "relprop.pictures.reading": ("PictureError", "find_pictures", "read_picture", "sample_pictures"),
}
"""The names of each module."""


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    """List the public names before they are imported, too."""
    return sorted({*globals(), *__all__})
