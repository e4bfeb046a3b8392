"""Small evaluations, and their files taken apart for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from relprop.evaluation import (
    Evaluation,
    evaluate,
)
from tests.helpers.models import CLASSES, kept, pictures

SAMPLES = 17
METHODS = ("abslrp", "random", "gradient")
TIMES = "seconds"
"""The one quantity that differs from run to run."""


def inputs(count: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Pictures with labels."""
    return pictures(count), torch.arange(count) % CLASSES


class Streamed:
    """These pictures and labels one by one, as a data set without a length."""

    def __init__(self, count: int) -> None:
        self.pairs = list(zip(*inputs(count), strict=True))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.pairs)


def run(
    path: Path, methods: Any = METHODS, count: int = SAMPLES, *, streamed: bool = False, **options: Any
) -> Evaluation:
    """Evaluate on a small model whose predictions differ."""
    return evaluate(kept("plain"), Streamed(count) if streamed else inputs(count), methods, path, **options)


def contents(path: Path) -> dict[str, np.ndarray]:
    """Every data set of a file but times, as bytes that can be compared."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.rpartition("/")[2] != TIMES:
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Compare files bit for bit."""
    assert one.keys() == other.keys()
    for name, values in one.items():
        if values.dtype == object:
            assert values.tolist() == other[name].tolist(), name
        else:
            assert values.dtype == other[name].dtype, name
            assert values.tobytes() == other[name].tobytes(), (name, values, other[name])


SCORES = ("faithfulness", "robustness", "local_consistency", "contrastiveness_raw", "contrastiveness", "gae")


def gradient_of(x: Tensor, target: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(kept("plain")(leaf).gather(1, target[:, None]).sum(), leaf)
    return found
