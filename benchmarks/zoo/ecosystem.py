"""All models of the zoo but timm's."""

from __future__ import annotations

from benchmarks.zoo import converted, huggingface, torchvision_models
from benchmarks.zoo.entries import Entry


def entries() -> list[Entry]:
    """Return the models of torchvision, Hugging Face, ONNX and Keras; within a source small to large."""
    return [
        *torchvision_models.classifiers(),
        *torchvision_models.segmentations(),
        *torchvision_models.detectors(),
        *huggingface.entries(),
        *converted.entries(),
    ]
