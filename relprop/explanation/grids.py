"""Maps of a model's inside in the picture: feature maps and token grids as ``(B, h, w)``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from relprop.errors import RelpropError

PREFIX = 9
"""At most so many tokens (class, distillation, registers) stand in front of those of the picture."""


class LayoutError(RelpropError, ValueError):
    """Relevance that can't be drawn, as its shape tells no grid over the picture."""


FEW = (1, 3)
"""Numbers of channels that tell by themselves which axis of a picture they are."""


def picture_channels(shape: Sequence[int], given_axis: int | None) -> int:
    """Return the axis of the channels of a picture: as the graph or the user says, else by its size.

    Raises
    ------
    LayoutError
        If neither tells.
    """
    if given_axis is not None:
        return given_axis % len(shape)
    fits = [axis for axis in (1, 3) if shape[axis] in FEW]
    if len(fits) != 1:
        raise LayoutError(
            f"which axis of a source {tuple(shape)} holds the channels can't be told, as no layer reads it along one: "
            "say so with <channel_axis>, 1 of (B, C, H, W) and 3 of (B, H, W, C)",
            channel_axis="1",
        )
    return fits[0]


def find_map(relevance: Tensor, picture: tuple[int, int], channels: int | None = None) -> Tensor | None:
    """Sum relevance over its channels where its shape tells a grid of the picture's aspect ratio.

    Parameters
    ----------
    relevance : Tensor
        ``(B, C, H, W)``, ``(B, H, W, C)``, or tokens ``(B, N, D)``, of which those in front that are not of the grid
        (class, distillation, registers) are left out.
    picture : tuple of int
        Height and width of the picture.
    channels : int, optional
        The axis of the channels, where that is known.

    Returns
    -------
    Tensor or None
        ``(B, h, w)``; None where there is no such grid, or one of a single cell.
    """
    if relevance.ndim == 4:
        sizes = {1: tuple(relevance.shape[2:]), 3: tuple(relevance.shape[1:3])}
        grids = {channels: _mismatch(size, picture) for channels, size in sizes.items() if _is_grid(size, picture)}
        if channels in grids:
            return relevance.sum(channels)
        return relevance.sum(min(grids, key=grids.__getitem__)) if grids else None
    if relevance.ndim == 3:
        tokens = relevance.shape[1]
        for prefix in range(min(PREFIX, tokens - 1) + 1):
            size = _grid_of(tokens - prefix, picture)
            if size is not None:
                height, width = size
                return relevance[:, prefix:].sum(2).reshape(-1, height, width)
    return None


def _grid_of(tokens: int, picture: tuple[int, int]) -> tuple[int, int] | None:
    height = round(math.sqrt(tokens * picture[0] / picture[1]))
    size = (height, tokens // max(height, 1))
    return size if size[0] * size[1] == tokens and _is_grid(size, picture) else None


def _mismatch(size: tuple[int, ...], picture: tuple[int, int]) -> float:
    return abs(size[0] * picture[1] - size[1] * picture[0]) / max(picture)


def _is_grid(size: tuple[int, ...], picture: tuple[int, int]) -> bool:
    """Whether a size has the picture's aspect ratio, but for a part of a cell lost at its margin."""
    return size[0] * size[1] > 1 and _mismatch(size, picture) < 1
