"""One sample of any data set: a picture in any form, perhaps with a label, as the model's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from relprop.errors import RelpropError, first_line
from relprop.evaluation.seeding import forked_random
from relprop.models import PictureError, TransformError
from relprop.models.preprocessing import Picture, apply, bands_of
from relprop.pictures.bands import read_bands

IMAGE_KEYS = ("image", "img", "picture", "pixel_values", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "class", "y")
MASK_KEYS = ("mask", "object_mask", "segmentation")
"""What rows of data sets call these, the first that is there is taken."""


class DataError(RelpropError, ValueError):
    """A data set that can't be evaluated on, or a sample of it that can't be read."""


class Item(NamedTuple):
    """What a data set holds at an index, taken apart."""

    image: Any
    label: Any = None
    mask: Any = None
    name: str = ""

    @property
    def called(self) -> str:
        """The item's name, its path where it has none."""
        return self.name or (fspath(self.image) if isinstance(self.image, str | PathLike) else "")


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample as it was read.

    Parameters
    ----------
    index : int
        In the data set.
    x : Tensor, optional
        The model's input, ``(C, H, W)``; None where it can't be read.
    label : int
        -1 where there is none.
    name : str
        What the data set calls it.
    mask : Tensor, optional
        bool ``(H, W)``: the pixels of the object, where the data set knows them.
    error : str
        Why it can't be read.
    """

    index: int
    x: Tensor | None = None
    label: int = -1
    name: str = ""
    mask: Tensor | None = None
    error: str = ""


@dataclass(frozen=True)
class Reader:
    """Makes samples of what a data set holds; what can't be read becomes a sample that says why.

    Parameters
    ----------
    transform : callable, optional
        PIL or uint8 RGB picture ``(H, W, 3)``, of other bands what `relprop.models.Classifier.read` returns ->
        normalised tensor ``(C, H, W)``, for what is no tensor yet.
    dtype : torch.dtype
        Of the model's input.
    masks : bool
        Whether samples must have the mask of an object.
    shape : tuple of int, optional
        Of every picture; any, where not given.
    seed : int
        What a data set, or its transform, draws follows from it and the sample's index.
    """

    transform: Callable[[Picture], Tensor] | None
    dtype: torch.dtype = torch.float32
    masks: bool = False
    shape: tuple[int, ...] | None = None
    seed: int = 0

    def __call__(self, index: int, fetch: Callable[[int], Any]) -> Sample:
        """Fetch the item at an index and make it a sample."""
        item = Item(None)
        try:
            with forked_random(torch.device("cpu"), self.seed, index):
                item = as_item(fetch(index))
                return self._sample(index, item)
        except MemoryError:
            raise
        except RelpropError as error:
            return Sample(index, name=item.called, error=str(error))
        except Exception as error:  # whatever a data set of anybody's raises
            return Sample(index, name=item.called, error=f"{type(error).__name__}: {first_line(error)}")

    def _sample(self, index: int, item: Item) -> Sample:
        x = self._input(item.image)
        if not x.isfinite().all():
            raise DataError("the picture holds NaN or infinite values")
        if self.masks and item.mask is None:
            raise DataError("the sample has no mask of an object, which the metrics asked for need")
        mask = as_mask(item.mask, x.shape[1:]) if self.masks else None
        if self.shape is not None and tuple(x.shape) != self.shape:
            raise DataError(
                f"the picture has shape {tuple(x.shape)}, the first one {self.shape}: mosaics need one size"
            )
        return Sample(index, x.to(self.dtype).contiguous(), as_label(item.label), item.called, mask)

    def _input(self, image: Any) -> Tensor:
        """Return a picture in any form as the model's input, ``(C, H, W)``."""
        bands = bands_of(self.transform)
        if isinstance(image, str | PathLike):
            return self._prepared(read_bands(image, bands))
        if isinstance(image, np.ndarray) and image.dtype != np.uint8:
            image = torch.from_numpy(image)
        if isinstance(image, Tensor) and image.dtype == torch.uint8:
            image = np.asarray(image.movedim(0, -1) if image.ndim == 3 and len(image) in (1, 3, bands) else image)
        if isinstance(image, Tensor):
            return _normalised(image)
        if isinstance(image, np.ndarray):
            image = _rgb(image) if bands in (1, 3) else image
        elif isinstance(image, Image.Image):
            image = _upright(image) if bands in (1, 3) else image
        if not isinstance(image, Image.Image | np.ndarray):
            raise DataError(f"a picture can't be a {type(image).__name__}: give a file, a PIL picture or a tensor")
        return self._prepared(image)

    def _prepared(self, image: Image.Image | np.ndarray[Any, Any]) -> Tensor:
        """Return a PIL picture or an array ``(H, W, 3)`` as the transform makes it, ``(C, H, W)``."""
        if self.transform is None:
            raise DataError(
                "pictures must be prepared for the model: give a transform, or a relprop.models.Classifier as the model"
            )
        if isinstance(image, Image.Image) or bands_of(self.transform) != 3:
            return apply(self.transform, image)
        try:  # first, as torchvision's transforms leave an array as it is without a word
            return apply(self.transform, Image.fromarray(image))
        except TransformError:
            return apply(self.transform, image)


def as_item(row: Any) -> Item:
    """Take a row of a data set apart: ``(image, label[, mask])``, a mapping, or the image alone."""
    if isinstance(row, Item):
        return row
    if isinstance(row, Mapping):
        image = _first(row, IMAGE_KEYS)
        if image is None:
            raise DataError(f"a row has no picture: of {', '.join(IMAGE_KEYS)} it has none, only {', '.join(row)}")
        return Item(image, _first(row, LABEL_KEYS), _first(row, MASK_KEYS), str(row.get("name", "")))
    if isinstance(row, tuple | list):
        if not 1 <= len(row) <= 3:
            raise DataError(f"a sample is (image, label) or (image, label, mask), not {len(row)} things")
        return Item(*row)
    return Item(row)


def as_label(label: Any) -> int:
    """Return a class index, -1 for none."""
    if label is None:
        return -1
    if (isinstance(label, np.ndarray | Tensor) and label.ndim == 0) or isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int):
        raise DataError(f"a label must be a class index, not {label!r}")
    if label < 0:
        raise DataError(f"label {label} is negative: a sample without a label has None")
    return label


def as_mask(mask: Any, size: Sequence[int]) -> Tensor:
    """Return the object's pixels, bool ``(H, W)``."""
    values = torch.as_tensor(np.asarray(mask))
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if tuple(values.shape) != tuple(size):
        raise DataError(f"the mask has shape {tuple(values.shape)}, the model's input {tuple(size)}")
    return values != 0


def _first(row: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _normalised(image: Tensor) -> Tensor:
    """Return a floating-point tensor ``(C, H, W)`` as it is; refuse any other."""
    if image.ndim != 3 or not image.is_floating_point() or image.numel() == 0:
        raise DataError(
            f"a tensor is taken as the model's normalised input, floating-point (C, H, W), not {image.dtype} "
            f"{tuple(image.shape)}"
        )
    return image.detach()


def _upright(image: Image.Image) -> Image.Image:
    """Return a PIL picture as `read_picture` would read its file: RGB of 8 bits, turned as EXIF says."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise PictureError(f"cannot decode picture: {first_line(error)}") from error


def _rgb(image: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a uint8 array ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)`` as ``(H, W, 3)``; refuse any other."""
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise DataError(f"a uint8 picture is RGB (H, W, 3), not {image.shape}")
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
