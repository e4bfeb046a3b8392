"""Random pictures as files, for measurements of speed and memory alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torchvision import transforms

from relprop.models import PictureTransform

_PATCHES = 8


def write_pictures(folder: Path, count: int, side: int, seed: int = 0) -> list[Path]:
    """Write smooth random pictures as JPEG, which are about as large and as slow to read as photographs.

    Parameters
    ----------
    folder
        Where to; made if it isn't there.
    count
        How many.
    side
        Height and width.
    seed
        Each picture follows from it and from its number.

    Returns
    -------
    list of Path
        The files, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        coarse = np.random.default_rng((seed, number)).integers(0, 256, (_PATCHES, _PATCHES, 3), np.uint8)
        path = folder / f"{number:06}.jpg"
        if not cv2.imwrite(str(path), cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)):
            raise OSError(f"{path} can't be written")
        paths.append(path)
    return paths


def preparation(side: int) -> PictureTransform:
    """Return what makes a picture the input of a model with random weights, which are used to no scale."""
    steps = [transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
    return PictureTransform(transforms.Compose(steps))
