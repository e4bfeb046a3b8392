"""Where on a picture a model looks, found with a test picture, whatever the transform is."""

from __future__ import annotations

import random
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from relprop.errors import RelpropError
from relprop.models.preprocessing import Picture, Preprocessing, apply, bands_of

BLUE = 200
"""Blue of all test pixels: no padding has it, and a transform that changes colours changes it."""

ALONG, ACROSS = 223, 32
"""Levels by which a test picture's red grows from left to right, and from top to bottom; its green the other way."""

BORDER = 3
"""Pixels at a picture's border, of the picture or of the view, that a resizing filter mixes unevenly."""


class ViewError(RelpropError, ValueError):
    """Where a model looks can't be found: its transform does more than to resize, crop and pad."""


@dataclass(frozen=True)
class View:
    """Where on a picture the model looked.

    Attributes
    ----------
    size
        Width and height of the picture, in pixels.
    box
        Left, top, right and bottom edge of the view, in pixels of the picture: (0, 0, width, height) is all of it.
        Where the transform pads it exceeds the picture.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def on_original(self, heat: NDArray[np.floating], shape: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Lay a map over the view back onto the picture.

        Parameters
        ----------
        heat : ndarray (h, w)
            Of any resolution; its pixels divide the view evenly.
        shape : (int, int), optional
            Height and width of the result, if not the picture's own: the picture is taken as scaled to it.

        Returns
        -------
        ndarray (H, W), float32
            Bilinear; zero where the model did not look.
        """
        height, width = shape or self.size[::-1]
        left, top, right, bottom = np.array(self.box) / (*self.size, *self.size) * (width, height, width, height)
        # Where the result is coarser than the map a bilinear look-up would skip pixels: average them first.
        rows, columns = min(heat.shape[0], int(np.ceil(bottom - top))), min(heat.shape[1], int(np.ceil(right - left)))
        small = cv2.resize(np.asarray(heat, np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        x, y = columns / (right - left), rows / (bottom - top)
        # Pixel i has its centre at i + 0.5, in the map as in the picture.
        affine = np.array([[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - top) * y - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        laid = cv2.warpAffine(small, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        inside_x = (np.arange(width) + 0.5 >= left) & (np.arange(width) + 0.5 <= right)
        inside_y = (np.arange(height) + 0.5 >= top) & (np.arange(height) + 0.5 <= bottom)
        return np.where(inside_y[:, None] & inside_x, laid, np.float32(0))


def size_of(picture: Picture) -> tuple[int, int]:
    """Return a picture's width and height."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def find_view(preprocessing: Preprocessing, size: tuple[int, int]) -> View:
    """Find out where on pictures of a size a model looks.

    A picture whose colours are coordinates goes through the transform: red grows from left to right, green from top
    to bottom, blue is the same everywhere but in what is padded. A straight line through the coordinates that come
    out gives the edges of the view.

    Parameters
    ----------
    preprocessing
        The transform, and how its normalisation is undone.
    size
        Width and height of the pictures.

    Raises
    ------
    ViewError
        The transform does more than to resize, crop and pad; or the picture is too small to tell.
    TransformError
        The transform fails.
    """
    before = _random_state()
    red, green, blue = _seen(preprocessing, _coordinates(*size))
    if _random_state() != before:
        raise ViewError("the transform draws random numbers: where the model looks differs from picture to picture")
    valid = np.abs(blue - BLUE) < 1
    rows, columns = valid.any(axis=1), valid.any(axis=0)
    if not valid[np.ix_(rows, columns)].all() or not valid.any():
        raise ViewError("the transform changes colours or turns the picture (or mean and std are not what it uses)")
    across = (ALONG * red - ACROSS * green) / (ALONG**2 - ACROSS**2)
    down = (ALONG * green - ACROSS * red) / (ALONG**2 - ACROSS**2)
    left, right = _edges(across[rows] * size[0], columns, size[0])
    top, bottom = _edges(down[:, columns].T * size[1], rows, size[1])
    return View(size, (left, top, right, bottom))


def _seen(preprocessing: Preprocessing, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return red, green and blue, (3, h, w) in levels, of what a transform makes of a picture.

    Where the model has other channels than these each colour goes through the transform in all of them.

    Raises
    ------
    ViewError
        What comes out of the channels is not the same.
    """
    if preprocessing.channels == 3:
        return _levels(preprocessing, picture)
    bands = bands_of(preprocessing.transform)
    planes = [_levels(preprocessing, np.repeat(picture[..., k, None], bands, axis=2)) for k in range(3)]
    if any(np.abs(plane - plane[0]).max() >= 1 for plane in planes):
        raise ViewError("the transform does not do the same to all channels: where the model looks can't be told")
    return np.stack([plane[0] for plane in planes])


def _levels(preprocessing: Preprocessing, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what a transform makes of a picture, (3, h, w) in levels, with its normalisation undone."""
    x = apply(preprocessing.transform, picture, preprocessing.channels)
    levels: NDArray[np.float64] = preprocessing.undo(x.detach().cpu().double()).numpy() * 255
    return levels


def _coordinates(width: int, height: int) -> NDArray[np.uint8]:
    """Draw the test picture, (height, width, 3).

    Each of its coordinates also grows slowly along the other axis: levels are coarse, but so each line rounds them at
    other places, and their mean over lines is fine.
    """
    x, y = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in (width, height))
    picture = np.full((height, width, 3), BLUE, np.uint8)
    picture[..., 0] = np.round(ALONG * x + ACROSS * y[:, None])
    picture[..., 1] = np.round(ALONG * y[:, None] + ACROSS * x)
    return picture


def _edges(places: NDArray[np.float64], valid: NDArray[np.bool_], length: int) -> tuple[float, float]:
    """Fit where the first pixel of the view begins and the last one ends, along one axis.

    Parameters
    ----------
    places : ndarray (lines, pixels)
        Coordinates on the picture in all unpadded lines, in pixels.
    valid : ndarray (pixels,)
        Which pixels along the axis are not padded.
    length : int
        Of the picture along the axis, in pixels.
    """
    places, centres = places[:, valid], np.flatnonzero(valid) + 0.5
    means = places.mean(axis=0)
    # The middle is not touched by what filters do at borders: it tells which of the other pixels are.
    inner = np.zeros(len(centres), bool)
    inner[len(centres) // 4 : len(centres) - len(centres) // 4] = True
    if inner.sum() < 2 or length < 2:
        raise ViewError("the picture, or the model's input, is too small to tell where the model looks")
    scale, start = np.polyfit(centres[inner], means[inner], 1)
    margin = BORDER * max(scale, 1.0)
    clear = np.abs(scale * centres + start - length / 2) <= length / 2 - margin
    if clear.sum() > inner.sum():
        inner = clear
        scale, start = np.polyfit(centres[inner], means[inner], 1)
    error = np.sqrt(np.mean((places - (scale * centres + start))[:, inner] ** 2))
    # Colours are rounded to a level, and a transform that picks the nearest pixel rounds to a pixel.
    if scale <= 0 or error > 0.6 * length / ALONG + 0.5:
        raise ViewError("the transform does more than to resize, crop and pad: where the model looks can't be told")
    first, last = centres[0] - 0.5, centres[-1] + 0.5
    ends = np.array([first, last]) * scale + start
    if not valid[0] and not valid[-1] and np.abs(ends - (0, length)).max() <= scale:
        scale = length / (last - first)  # padding on both sides shows all of the picture: its edges are seen
        start = -first * scale
    return float(start), float(scale * len(valid) + start)


def _random_state() -> tuple[object, ...]:
    """Return the state of the random numbers that transforms draw from."""
    numpy = np.random.get_state(legacy=False)
    state = numpy["state"]
    return random.getstate(), state["key"].tobytes(), state["pos"], torch.get_rng_state().numpy().tobytes()
