"""Pictures of one, four or more channels: arrays, TIFF of several bands or pages, RGBA and CMYK."""

from __future__ import annotations

import io
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from relprop.errors import first_line
from relprop.pictures.reading import TIFF, PictureError, depth_of, read_picture, refuse_size, regular_bytes

NPY = b"\x93NUMPY"
OPACITY = (1, 2)
"""Kinds of extra samples of a TIFF that are no band: associated and unassociated alpha."""


def read_bands(path: str | PathLike[str], channels: int) -> NDArray[Any]:
    """Read a picture of so many channels.

    Parameters
    ----------
    path : path
        Of a picture. Of other channels than one and three: an RGBA or CMYK picture, a TIFF of several bands or pages,
        or ``.npy`` of ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``: uint8, uint16, or numbers in [0, 1].
    channels : int
        How many the model takes. One is made of colours later.

    Returns
    -------
    ndarray
        Of three channels, and of one where it is no array: uint8 RGB ``(H, W, 3)``. Else ``(H, W, channels)``, uint8,
        or float32 in [0, 1] of what has more than eight bits.

    Raises
    ------
    PictureError
        It can't be read, has another number of channels, or numbers outside of [0, 1].
    """
    data = _data(path)
    array = data.startswith(NPY)
    if channels in (1, 3) and not array:
        if data[:4] in TIFF and (count := _count_bands(data)) > 3:
            raise _cannot(path, _wrong_count(count, channels))
        return read_picture(path)
    try:
        if array:
            bands = _array(data, (1, 3) if channels == 1 else (channels,))
        elif data[:4] in TIFF:
            bands = _tiff(data)
        else:
            bands = _picture(data)
        refuse_size(bands.shape[1], bands.shape[0])
        if bands.shape[2] != channels and (channels, bands.shape[2]) != (1, 3):
            raise ValueError(_wrong_count(bands.shape[2], channels))
        return _scaled(bands) if channels != 3 else shown(_scaled(bands))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise _cannot(path, first_line(error)) from error


def read_shown(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture of any number of channels as uint8 RGB ``(H, W, 3)``, to look at.

    Raises
    ------
    PictureError
        It can't be read.
    """
    data = _data(path)
    if not data.startswith(NPY) and (data[:4] not in TIFF or _count_bands(data) <= 3):
        return read_picture(path)
    try:
        return shown(_scaled(_tiff(data) if data[:4] in TIFF else _array(data, (1, 3))))
    except (OSError, ValueError, EOFError) as error:
        raise _cannot(path, first_line(error)) from error


def shown(bands: NDArray[Any]) -> NDArray[np.uint8]:
    """Return channels ``(H, W, C)`` as a uint8 RGB picture ``(H, W, 3)``: the first three, or the first in grey."""
    colours = bands[..., :3] if bands.shape[2] >= 3 else np.repeat(bands[..., :1], 3, axis=2)
    return np.ascontiguousarray(colours if colours.dtype == np.uint8 else (colours * 255).round().astype(np.uint8))


def _cannot(path: str | PathLike[str], why: str) -> PictureError:
    return PictureError(f"cannot read picture {path}: {why}")


def _wrong_count(count: int, channels: int) -> str:
    other = f": give a TIFF of {channels} bands, or .npy (H, W, {channels})" if channels not in (1, 3) else ""
    return f"it has {count} channel{'s' * (count > 1)}, the model takes {channels}{other}"


def _data(path: str | PathLike[str]) -> bytes:
    try:
        return regular_bytes(Path(path))
    except OSError as error:
        raise _cannot(path, first_line(error)) from error


def _array(data: bytes, counts: tuple[int, ...]) -> NDArray[Any]:
    """Return what NumPy wrote, ``(H, W, C)``: the channels are the last axis where that fits, else the first."""
    found = np.load(io.BytesIO(data), allow_pickle=False)
    if found.ndim == 2:
        return np.asarray(found[..., None])
    if found.ndim != 3:
        raise ValueError(f"an array of a picture is (H, W), (H, W, C) or (C, H, W), not {found.shape}")
    return np.asarray(found if found.shape[2] in counts or found.shape[0] not in counts else np.moveaxis(found, 0, 2))


def _tiff(data: bytes) -> NDArray[Any]:
    """Return the bands, or the pages, of a TIFF, ``(H, W, C)``.

    OpenCV and PIL decode four bands at most, and return one of them alone, or other numbers, without a word.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        axes = [axis for axis in series.axes if axis not in "YX"]
        if len(axes) > 1 or not {"X", "Y"} <= set(series.axes):
            raise ValueError(f"its axes {series.axes} {series.shape} are not those of a picture and its bands")
        refuse_size(series.sizes["width"], series.sizes["height"])
        found = np.asarray(series.asarray())
        return found[..., None] if not axes else np.moveaxis(found, series.axes.index(axes[0]), -1)


def _count_bands(data: bytes) -> int:
    """Return how many bands a TIFF has: one of grey, three of colours, whatever says how opaque they are left out."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            colours = page.samplesperpixel - len(page.extrasamples)
            grey = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
            opacity = grey and all(kind in OPACITY for kind in page.extrasamples)
            return 3 if not grey or (colours == 1 and opacity) else int(page.samplesperpixel)
    except (tifffile.TiffFileError, ValueError, IndexError):  # what can't be parsed is for `read_picture` to refuse
        return 0


def _picture(data: bytes) -> NDArray[Any]:
    """Return the channels of a picture that PIL reads, ``(H, W, C)``, turned as its EXIF orientation says."""
    with Image.open(io.BytesIO(data)) as picture:
        refuse_size(picture.width, picture.height)
        picture.load()
        turned = ImageOps.exif_transpose(picture)
        if turned.mode == "P":
            turned = turned.convert("RGBA" if "transparency" in turned.info else "RGB")
        found = np.asarray(turned)
        return found[..., None] if found.ndim == 2 else found


def _scaled(bands: NDArray[Any]) -> NDArray[Any]:
    """Bring numbers ``(H, W, C)`` to uint8 as they are, or to float32 in [0, 1].

    Raises
    ------
    ValueError
        They lie outside of [0, 1], or are of a type that says no scale.
    """
    if bands.dtype == np.uint8:
        return bands
    if bands.dtype == np.uint16:
        return (bands / np.float32(2 ** depth_of(bands) - 1)).astype(np.float32)
    if bands.dtype.kind != "f":
        raise ValueError(f"its numbers are {bands.dtype}: give uint8, uint16, or floats in [0, 1]")
    low, high = bands.min(initial=0), bands.max(initial=0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"its numbers lie from {low:g} to {high:g}: scale them to [0, 1], or give tensors")
    return bands.astype(np.float32)
