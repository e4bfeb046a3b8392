"""Pictures as they were read, and as a model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from relprop.models import Classifier, TransformError, View, ViewError
from relprop.models.preprocessing import apply
from relprop.pictures import Array, Original, Pixels
from relprop.pictures.bands import shown

LONG_SIDE = 1200
"""Pixels that are kept of an original: more than is drawn of it."""


@dataclass(frozen=True, eq=False)
class InputPicture:
    """One picture.

    Parameters
    ----------
    path : Path
        Its file.
    x : Tensor
        The model's input, ``(C, H, W)``.
    view : View, optional
        Where on the original the model looks; None where that can't be told.
    original : ndarray
        The picture, uint8 RGB, no larger than it is drawn.
    """

    path: Path
    x: Tensor
    view: View | None
    original: Pixels

    def original_with(self, heat: Array) -> Original | None:
        """Return the original, a map ``(h, w)`` of the view laid over it, ``(H, W)``, and that view's box."""
        if self.view is None:
            return None
        height, width = self.original.shape[:2]
        scale = width / self.view.size[0], height / self.view.size[1]
        left, top, right, bottom = (edge * scale[k % 2] for k, edge in enumerate(self.view.box))
        return self.original, self.view.on_original(heat, (height, width)), (left, top, right, bottom)


def read_input(path: Path, classifier: Classifier) -> InputPicture:
    """Read a picture and prepare it for a model.

    Raises
    ------
    PictureError
        If it can't be read.
    TransformError
        If the model's transform fails on it.
    """
    picture = classifier.read(path)
    try:
        view = classifier.view(picture)
    except ViewError:
        # A transform of one's own may do anything; the index then has no box, and the picture no fourth tile.
        view = None
    height, width = picture.shape[:2]
    scale = LONG_SIDE / max(height, width)
    kept = shown(picture)
    x = apply(classifier.transform, picture, classifier.channels)
    if not x.isfinite().all():
        raise TransformError("the transform makes NaN or infinite values of a picture")
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        kept = np.asarray(cv2.resize(kept, size, interpolation=cv2.INTER_AREA), np.uint8)
    return InputPicture(path, x, view, kept)
