"""The positive part of a relevance map, and the two quotients that all scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.gae.checks import check_map


@dataclass(frozen=True)
class Score:
    """A number per sample, and where it stands for 0/0.

    Parameters
    ----------
    value : Tensor
        The score, ``(...)``; 0 where it is undefined.
    undefined : Tensor
        bool of the same shape: True where the definition divides by zero.
    """

    value: Tensor
    undefined: Tensor


def positive_map(relevance: Tensor, lead: Sequence[int], size: Sequence[int]) -> Tensor:
    """Keep what speaks for the class: relu of the sum over channels, divided by its maximum.

    So maps with and without channels compare. Applied to what it returned it changes nothing.

    Parameters
    ----------
    relevance : Tensor
        ``(*lead, C, H, W)``, ``(*lead, 1, H, W)`` or ``(*lead, H, W)``, any scale.
    lead : sequence of int
        Sizes of the axes in front of the map, as ``(B,)``.
    size : sequence of int
        Height and width.

    Returns
    -------
    Tensor
        ``(*lead, H, W)`` in [0, 1]; all zero where nothing is positive.

    Raises
    ------
    MapError
        If the shape is another, or a value is not finite.
    """
    checked = check_map(relevance, lead, size)
    # Scaled before the sum, which could overflow, and again after it.
    scaled, _ = quotient(checked, checked.abs().amax((-3, -2, -1), keepdim=True))
    positive = scaled.sum(-3).relu()
    return quotient(positive, positive.amax((-2, -1), keepdim=True))[0]


def weighted_mean(weights: Tensor, relevance: Tensor) -> Score:
    """Average weights over a picture by relevance: ``sum(w r) / sum(r)``.

    Parameters
    ----------
    weights, relevance : Tensor
        ``(B, H, W)``; relevance is non-negative.

    Returns
    -------
    Score
        ``(B,)``, within the range of the weights; undefined where there is no relevance.
    """
    return Score(*quotient((weights * relevance).sum((-2, -1)), relevance.sum((-2, -1))))


def distance(a: Tensor, b: Tensor, axes: int) -> Score:
    """Compare by ``D(a, b) = sum|a - b| / (sum|a| + sum|b|)``.

    Parameters
    ----------
    a, b : Tensor
        Of one shape, or broadcast to it.
    axes : int
        How many trailing axes are summed over.

    Returns
    -------
    Score
        In [0, 1]: 0 where both are equal, 1 where they have nothing in common; undefined where both are zero.
    """
    last = tuple(range(-axes, 0))
    return Score(*quotient((a - b).abs().sum(last), a.abs().sum(last) + b.abs().sum(last)))


def quotient(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Divide ``(...)`` by what broadcasts; where that is zero the quotient is zero, and the second tensor True."""
    undefined = b == 0
    return torch.where(undefined, 0.0, a / torch.where(undefined, 1.0, b)), undefined
