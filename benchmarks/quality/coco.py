"""Pictures whose object is outlined: the COCO subset among the shared assets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from relprop.errors import RelpropError


class DataError(RelpropError, FileNotFoundError):
    """Pictures or weights that are not there."""


@dataclass(frozen=True)
class Sample:
    """A picture, the outline of its main object, and what ImageNet calls that.

    Attributes
    ----------
    picture, mask
        Files; a pixel of the mask holds the category of the object that it belongs to.
    category
        The main object's.
    name
        Its name.
    classes
        ImageNet indices that mean the same.
    """

    picture: Path
    mask: Path
    category: int
    name: str
    classes: frozenset[int]

    def read(self) -> tuple[Image.Image, Image.Image]:
        """Return the picture, and as 0 and 255 where its main object is."""
        with Image.open(self.mask) as mask:
            inside = np.asarray(mask) == self.category
        with Image.open(self.picture) as picture:
            return picture.convert("RGB"), Image.fromarray(inside.astype(np.uint8) * 255)


@dataclass(frozen=True)
class Coco:
    """The samples that ImageNet has a class for, and the folder of weights beside them."""

    samples: Sequence[Sample]
    weights: Path

    @classmethod
    def open(cls, shared: Path) -> Coco:
        """Read the list of pictures.

        Raises
        ------
        DataError
            The folder doesn't hold the assets.
        """
        folder = shared / "assets" / "images" / "coco_seg"
        labels = folder / "labels.csv"
        if not labels.is_file():
            raise DataError(f"no {labels}: pass --shared DIR, the folder that holds assets/images and assets/weights")
        with labels.open(newline="") as file:
            samples = [
                Sample(
                    picture=folder / "images" / row["file"],
                    mask=folder / "masks" / row["mask"],
                    category=int(row["main_category_id"]),
                    name=row["main_category"],
                    classes=frozenset(map(int, row["imagenet_indices"].split())),
                )
                for row in csv.DictReader(file)
                if row["imagenet_indices"].strip()
            ]
        return cls(samples, shared / "assets" / "weights")

    def weights_of(self, file: str) -> Path:
        """Return the path of a weight file.

        Raises
        ------
        DataError
            It isn't there.
        """
        path = self.weights / file
        if not path.is_file():
            raise DataError(f"no weights {path}")
        return path
