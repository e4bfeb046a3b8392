"""The pictures of a data set, found again by the names in the file, and cut as the model saw them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relprop.pictures import Pixels, robust_scale
from relprop.pictures.bands import read_shown
from relprop.pictures.reading import PictureError

# How timm and torchvision write their transforms: Resize(size=256, ...), CenterCrop(size=(224, 224)), or the preset
# ImageClassification(crop_size=[224], resize_size=[256], ...).
_RESIZE = re.compile(r"(?:\bResize\(size=|resize_size=)[\[(]?(\d+)(?:, (\d+))?")
_CROP = re.compile(r"(?:\bCenterCrop\(size=|crop_size=)[\[(]?(\d+)(?:, (\d+))?")
_OTHER = re.compile(r"\b(?:Random\w+|ResizeKeepRatio|CenterCropOrPad|Pad|FiveCrop|TenCrop)\(")


def drawn_heat(relevance: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a map ``(H, W)`` or ``(C, H, W)`` of a file as it is drawn, ``(H, W)`` in [-1, 1]: channels summed."""
    summed = relevance.sum(0) if relevance.ndim == 3 else relevance
    return robust_scale(np.asarray(summed, np.float64))[0]


def find_picture(name: str, folder: Path | None) -> Pixels | None:
    """Read the picture ``(H, W, 3)`` of a name below a folder; None where there is none.

    Names are those of a file, which may be a stranger's: they lead nowhere else, and without a folder nowhere.
    """
    if folder is None or not name:
        return None
    below = Path(os.path.abspath(folder))
    for place in (below / name, below / Path(name).name):  # the first is the name alone where that is absolute
        path = Path(os.path.normpath(place))
        try:
            if path.is_relative_to(below) and path.is_file():
                return read_shown(path)
        except (OSError, PictureError):  # a name may be too long for a path
            continue
    return None


def as_seen(picture: Pixels, preparation: str | None, size: tuple[int, int]) -> Pixels | None:
    """Return what the model saw of a picture, ``(h, w, 3)`` of any resolution; None where that is unknown.

    Parameters
    ----------
    picture : ndarray
        uint8 RGB.
    preparation : str, optional
        The transform, as the file's configuration has it.
    size : tuple of int
        Height and width of the model's input.
    """
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    resize, crop = (pattern.search(preparation or "") for pattern in (_RESIZE, _CROP))
    if preparation is None or resize is None or _OTHER.search(preparation):
        return None
    first, second = resize.groups()
    if second is not None:
        across = int(first) / height, int(second) / width
    else:
        scale = int(first) / min(height, width)
        across = scale, scale
    if crop is None:  # all of it
        return picture if second is not None or height * size[1] == width * size[0] else None
    high, wide = size[0] / across[0], size[1] / across[1]
    if high > height + 1 or wide > width + 1:  # padded
        return None
    top, left = (height - high) / 2, (width - wide) / 2
    rows, columns = _ends(top, high, height), _ends(left, wide, width)
    return np.ascontiguousarray(picture[rows, columns])


def _ends(start: float, length: float, limit: int) -> slice:
    return slice(max(round(start), 0), min(round(start + length), limit))
