"""Whether relevance lies on a known object."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import InputError
from relprop.gae.checks import check_map
from relprop.gae.maps import Score, positive_map, quotient, weighted_mean


def energy_inside(relevance: Tensor, mask: Tensor) -> Score:
    """Return the share of positive relevance that lies inside a mask: ``sum(m r) / sum(r)``, r = relu of the map.

    The energy-based pointing game of Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional
    Neural Networks, CVPR Workshops 2020, who take boxes.

    Parameters
    ----------
    relevance : Tensor
        ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``, any scale; channels are summed first.
    mask : Tensor
        bool ``(B, H, W)``: the pixels of the object. Their share of all pixels is what chance reaches.

    Returns
    -------
    Score
        ``(B,)`` in [0, 1], higher is better; undefined where nothing is relevant.

    Raises
    ------
    MapError, InputError

    Examples
    --------
    >>> import torch
    >>> from relprop.metrics import energy_inside
    >>> relevance = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    >>> energy_inside(relevance, torch.tensor([[[True, False], [True, False]]])).value
    tensor([0.7500])
    """
    mask = _check_mask(mask)
    positive = positive_map(relevance, mask.shape[:1], mask.shape[1:])
    return weighted_mean(mask.to(positive), positive)


def pointing_game(relevance: Tensor, mask: Tensor, *, tolerance: float = 0) -> Score:
    """Score whether the point of largest relevance hits the object.

    Zhang et al., Top-Down Neural Attention by Excitation Backprop, ECCV 2016, who allow a distance of 15 pixels
    between point and object. Where several pixels share the largest relevance the score is the share of them
    that hit: what one drawn at random scores on average, so a constant map reaches the share of the object.

    Parameters
    ----------
    relevance : Tensor
        ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``; channels are summed first.
    mask : Tensor
        bool ``(B, H, W)``: the pixels of the object.
    tolerance : float
        Largest distance from the centre of a pixel of the object that still counts as a hit, in pixels. With one,
        chance is higher than the share of the object.

    Returns
    -------
    Score
        ``(B,)`` in [0, 1], 1 for a hit; undefined where the mask is empty.

    Raises
    ------
    MapError, InputError
    """
    mask = _check_mask(mask)
    values = check_map(relevance, mask.shape[:1], mask.shape[1:]).sum(1)
    largest = values == values.amax((1, 2), keepdim=True)
    near = _widened(mask, tolerance).to(largest.device)
    hit, _ = quotient((largest & near).sum((1, 2)).float(), largest.sum((1, 2)).float())
    return Score(hit, ~mask.flatten(1).any(1).to(hit.device))


def boxes_to_masks(boxes: Sequence[Tensor] | Tensor, size: Sequence[int]) -> Tensor:
    """Draw boxes: a pixel belongs to an object if its centre lies in one of the object's boxes.

    Parameters
    ----------
    boxes : sequence of Tensor
        For each sample its boxes, ``(N, 4)`` or, of one box, ``(4,)``, so that ``(B, 4)`` is a box for each. Left, top,
        right and bottom edge in pixels, from the picture's top left corner; the pixel in that corner reaches from 0
        to 1. What lies outside of the picture is cut off.
    size : sequence of int
        Height and width of the picture.

    Returns
    -------
    Tensor
        bool ``(B, H, W)``: the union of a sample's boxes.

    Raises
    ------
    InputError
        If a box has no four finite numbers, or its right or bottom edge comes before the other one.

    Examples
    --------
    >>> import torch
    >>> from relprop.metrics import boxes_to_masks
    >>> boxes_to_masks(torch.tensor([[1, 0, 3, 1]]), (2, 4)).int()
    tensor([[[0, 1, 1, 0],
             [0, 0, 0, 0]]], dtype=torch.int32)
    """
    height, width = size
    if len(boxes) == 0:
        raise InputError("the batch is empty: give the boxes of at least one sample")
    masks = []
    for sample, given in enumerate(boxes):
        edges = torch.as_tensor(given).double()
        edges = edges.unsqueeze(0) if edges.ndim == 1 and edges.numel() else edges.reshape(-1, edges.shape[-1] or 4)
        if edges.shape[1] != 4 or not edges.isfinite().all():
            raise InputError(f"sample {sample}: a box is four finite numbers: left, top, right, bottom")
        left, top, right, bottom = (edge.reshape(-1, 1) for edge in edges.unbind(1))
        if (right < left).any() or (bottom < top).any():
            raise InputError(
                f"sample {sample} has a box whose right or bottom edge comes before its left or top one: give corners "
                "(left, top, right, bottom), not a corner with width and height"
            )
        rows, columns = (torch.arange(side, device=edges.device) + 0.5 for side in (height, width))
        inside = ((rows >= top) & (rows < bottom)).unsqueeze(2) & ((columns >= left) & (columns < right)).unsqueeze(1)
        masks.append(inside.any(0))
    return torch.stack(masks)


def _check_mask(mask: Tensor) -> Tensor:
    """Return masks ``(B, H, W)`` if they hold truth values."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 3 or mask.numel() == 0:
        found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"masks must be truth values (B, H, W), not {found}")
    return mask


def _widened(mask: Tensor, distance: float) -> Tensor:
    """Add to masks ``(B, H, W)`` all pixels no farther than a distance from theirs."""
    if not (math.isfinite(distance) and distance >= 0):
        raise InputError(f"the tolerance is a distance in pixels and can't be {distance}")
    reach = min(int(distance), max(mask.shape[1:]))
    if reach == 0:
        return mask
    steps = torch.arange(-reach, reach + 1, device=mask.device)
    disc = (steps[:, None] ** 2 + steps**2 <= math.floor(distance**2)).float()
    return F.conv2d(mask.unsqueeze(1).float(), disc[None, None], padding=reach).squeeze(1) > 0.5
