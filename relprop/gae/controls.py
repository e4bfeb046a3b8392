"""Maps for comparison: some know nothing of the model, one is the answer itself.

They come on the CPU, in float32, and are maps ``(B, H, W)`` like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.gae.checks import MapError, check_size
from relprop.gae.mosaics import quadrant_slices

CENTRE_WIDTH = 0.25
"""Standard deviation of the Gaussian at the centre, over the side of the picture."""


def random_map(indices: Sequence[int] | Tensor, size: Sequence[int], *, seed: int, draw: int = 0) -> Tensor:
    """Draw relevance uniformly from [0, 1), by seed and sample index alone.

    Parameters
    ----------
    indices : sequence of int or Tensor
        The samples' indices in the data set, ``(B,)``.
    size : sequence of int
        Height and width.
    seed : int
        Not negative.
    draw : int
        Which map of the sample: 0 for the picture, others for masked states and the mosaic, where the control shall
        answer anew each time.

    Returns
    -------
    Tensor
        ``(B, H, W)``.
    """
    samples = [int(index) for index in indices]
    _check_batch(len(samples))
    if min(*samples, seed, draw) < 0:
        raise InputError(f"seed, draw and sample indices can't be negative: {seed}, {draw}, {min(samples)}")
    # A spawn key keeps apart what a longer list of seeds would mix up: (1,) and (1, 0) seed alike.
    drawn = [
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, draw))).random(tuple(size), np.float32)
        for index in samples
    ]
    return torch.from_numpy(np.stack(drawn))


def constant_map(count: int, size: Sequence[int]) -> Tensor:
    """Return the same relevance everywhere, ``(count, H, W)``."""
    _check_batch(count)
    return torch.ones(count, *size)


def centre_map(count: int, size: Sequence[int]) -> Tensor:
    """Return a Gaussian about the centre, a quarter of each side wide, ``(count, H, W)``: photographers centre."""
    _check_batch(count)
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / (CENTRE_WIDTH * side)) ** 2) for side in size
    )
    return torch.outer(rows, columns).repeat(count, 1, 1)


def oracle_map(objects: Tensor) -> Tensor:
    """Return the object itself as the explanation.

    Parameters
    ----------
    objects : Tensor
        bool ``(B, H, W)``: the pixels of the known object. For a masked state those still to be seen.

    Returns
    -------
    Tensor
        ``(B, H, W)``, 1 on the object and 0 elsewhere.
    """
    if objects.dtype != torch.bool or objects.ndim != 3:
        raise MapError(f"objects must be truth values (B, H, W), not {objects.dtype} {tuple(objects.shape)}")
    _check_batch(len(objects))
    return objects.float()


def mosaic_oracle_map(quadrant: Sequence[int] | Tensor, size: Sequence[int]) -> Tensor:
    """Return the sample's own quadrant as the explanation of its mosaic.

    Parameters
    ----------
    quadrant : sequence of int or Tensor
        Where each sample sits, 0 to 3: top left, top right, bottom left, bottom right.
    size : sequence of int
        Height and width.

    Returns
    -------
    Tensor
        ``(B, H, W)``, 1 in the quadrant and 0 elsewhere.
    """
    places = [int(place) for place in quadrant]
    _check_batch(len(places))
    if not set(places) <= set(range(4)):
        raise InputError(f"quadrants are 0 to 3, not {min(places)} to {max(places)}")
    maps = torch.zeros(len(places), *check_size(size))
    slices = quadrant_slices(size)
    for sample, place in enumerate(places):
        maps[sample, slices[place][0], slices[place][1]] = 1
    return maps


def _check_batch(count: int) -> None:
    if count < 1:
        raise InputError("the batch is empty: a control needs at least one sample")
