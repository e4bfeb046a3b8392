"""Mosaics of four pictures: how they are made, and what an explanation should find in each quadrant.

The four are consecutive in a batch and sit top left, top right, bottom left, bottom right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import InputError
from relprop.gae.checks import check_fours, check_pictures, check_size, check_target
from relprop.gae.maps import quotient


@dataclass(frozen=True)
class Quadrants:
    """What the quadrants of its mosaic mean to each sample.

    Parameters
    ----------
    scores : Tensor
        ``(B, 4)`` in [-1, 1] (in the released protocol without bounds): 1 is as much evidence for the sample's class
        as its own picture, -1 none.
    undefined : Tensor
        bool ``(B,)``: the sample's own probability is zero, so the scores divide by zero and are -1.
    one_class : Tensor
        bool ``(B,)``: all four pictures of the mosaic have one class, so nothing can be told apart.
    """

    scores: Tensor
    undefined: Tensor
    one_class: Tensor


def sample_order(count: int, seed: int) -> NDArray[np.int64]:
    """Return the permutation of ``count`` samples that follows from a seed, not negative: indices ``(count,)``."""
    return np.random.default_rng(seed).permutation(count).astype(np.int64)


def cut_in_fours(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make mosaics of samples in their order.

    Parameters
    ----------
    order : ndarray
        Indices ``(N,)``.

    Returns
    -------
    ndarray
        Indices ``(mosaics, 4)``. An incomplete last four is filled up from the first: with more samples behind, all
        other mosaics stay what they are.
    """
    return np.resize(order, (-(-len(order) // 4), 4))


def mosaic_members(count: int, seed: int) -> NDArray[np.int64]:
    """Choose which samples share a mosaic: the order that follows from the seed, cut into fours.

    Parameters
    ----------
    count : int
        Size of the data set.
    seed : int
        Not negative.

    Returns
    -------
    ndarray
        Indices ``(mosaics, 4)``. An incomplete last four is filled up from the first indices of the permutation.
    """
    if count < 1:
        raise InputError(f"there is no mosaic of {count} pictures")
    return cut_in_fours(sample_order(count, seed))


def quadrant_slices(size: Sequence[int]) -> tuple[tuple[slice, slice], ...]:
    """Return rows and columns of the four quadrants; of an odd size the first half is the smaller one."""
    height, width = check_size(size)
    rows = slice(0, height // 2), slice(height // 2, height)
    columns = slice(0, width // 2), slice(width // 2, width)
    return tuple((r, c) for r in rows for c in columns)


def make_mosaics(x: Tensor) -> Tensor:
    """Lay each four pictures of a batch side by side at half their size, by area averaging.

    Parameters
    ----------
    x : Tensor
        ``(4 M, C, H, W)``, height and width at least 2.

    Returns
    -------
    Tensor
        ``(M, C, H, W)``.
    """
    return lay_out(x, "area")


def lay_out(x: Tensor, mode: Literal["area", "nearest"]) -> Tensor:
    """Make mosaics ``(M, C, H, W)`` of pictures ``(4 M, C, H, W)``, each shrunk by a mode of `F.interpolate`."""
    x = check_pictures(x)
    check_fours(len(x))
    mosaics = torch.empty_like(x[::4])
    for place, (rows, columns) in enumerate(quadrant_slices(x.shape[2:])):
        tile = (rows.stop - rows.start, columns.stop - columns.start)
        mosaics[..., rows, columns] = F.interpolate(x[place::4], size=tile, mode=mode)
    return mosaics


def quadrant_scores(output: Tensor, target: Tensor) -> Quadrants:
    """Rate the quadrants of each sample's mosaic: ``s_j = clamp(2 q_j / q_sample - 1, -1, 1)``.

    q is the probability, on the sample's own picture, of the class of picture j.

    Parameters
    ----------
    output : Tensor
        Logits of the pictures themselves, ``(4 M, classes)``, as in `MaskingRun`.
    target : Tensor
        The classes predicted for them, ``(4 M,)``.

    Returns
    -------
    Quadrants
    """
    check_fours(len(output))
    target = check_target(target, output)
    ratio, undefined = probability_ratios(output, target)
    return Quadrants((2 * ratio - 1).clamp(-1, 1), undefined, one_class(target))


def probability_ratios(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``q_j / q_sample``, ``(4 M, 4)``, and where the divisor is zero, ``(4 M,)``.

    Of logits ``(4 M, classes)`` and the classes of the samples, ``(4 M,)``.
    """
    others = target.reshape(-1, 4).repeat_interleave(4, 0)
    probability = output.softmax(1)
    ratio, undefined = quotient(probability.gather(1, others), probability.gather(1, target[:, None]))
    return ratio, undefined[:, 0]


def one_class(target: Tensor) -> Tensor:
    """Return whether all four of a sample's mosaic have its class, ``(4 M,)`` like the classes."""
    fours = target.reshape(-1, 4)
    return (fours == fours[:, :1]).all(1).repeat_interleave(4)


def score_map(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Spread the scores of quadrants over the mosaic; the two lines at the centre hold 1, in rows and columns.

    Parameters
    ----------
    scores : Tensor
        ``(B, 4)``, as of `quadrant_scores`.
    size : sequence of int
        Height and width.

    Returns
    -------
    Tensor
        ``(B, H, W)``.
    """
    height, width = check_size(size)
    spread = scores.new_empty((len(scores), height, width))
    for place, (rows, columns) in enumerate(quadrant_slices(size)):
        spread[:, rows, columns] = scores[:, place, None, None]
    spread[:, height // 2 - 1 : height // 2 + 1] = 1
    spread[:, :, width // 2 - 1 : width // 2 + 1] = 1
    return spread
