"""``protocol="released"``: the authors' code for a mosaic of four given pictures, so that numbers can be compared.

It masks single elements and scores them, in all channels. The authors' records settle what their text leaves open: the
shares of all ten states are summed, their divisors have 1e-9 added, and where t n / 10 is a whole number one element
less is masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.gae.checks import (
    MapError,
    Model,
    Target,
    check_fours,
    check_map,
    check_model,
    check_output,
    check_pictures,
    check_size,
    check_target,
)
from relprop.gae.maps import Score, quotient
from relprop.gae.masking import LERF, MORF, STATES, MaskingRun, RunRecord, masked, measure_sensitivity, sort_keys
from relprop.gae.mosaics import Quadrants, lay_out, probability_ratios, quadrant_slices

EPS = 1e-9
"""What the released code adds to its divisors."""


def released_run(model: Model, x: Tensor, target: Target) -> MaskingRun:
    """Mask single elements as the released code does.

    At step t = 1 to 9 the elements of the current state with the largest (MoRF) or smallest (LeRF)
    ``g = |x_t d|logit|/dx|`` become zero, a t-th tenth of all each time. What is zero already has no g: MoRF picks
    others until all is masked at the fourth step, while LeRF picks the same again.

    Parameters
    ----------
    model : callable
        From pictures to logits ``(B, classes)``, in evaluation mode.
    x : Tensor
        ``(B, C, H, W)``.
    target : Tensor, optional
        Classes ``(B,)``; by default the model's predictions.

    Returns
    -------
    MaskingRun
        With ``steps (B, 2, C, H, W)`` and ``impact (B, C, H, W)``.
    """
    check_model(model)
    x = check_pictures(x)
    first = measure_sensitivity(model, x, target)
    steps = x.new_full((len(x), 2, *x.shape[1:]), STATES, dtype=torch.uint8)
    strength = first.strength[:, None].expand(steps.shape)
    total, undefined = torch.zeros_like(strength), torch.zeros_like(first.target, dtype=torch.bool)
    record = RunRecord(first)
    for t in range(1, STATES + 1):
        mass = strength.flatten(2).sum(2)
        share = strength / (mass + EPS)[..., None, None, None]
        total, undefined = total + share, undefined | (mass == 0).any(1)
        if t == STATES:
            break
        steps = _mask_elements(steps, share, t)
        states = torch.stack([masked(x, steps[:, order], t) for order in (MORF, LERF)], 1)
        seen = measure_sensitivity(model, states.flatten(0, 1), first.target.repeat_interleave(2))
        strength = seen.strength.reshape(steps.shape)
        record.add(seen)
    return record.run(steps, total, undefined)


def released_mosaics(x: Tensor) -> Tensor:
    """Lay each four pictures side by side, by nearest neighbour at half size.

    Parameters
    ----------
    x : Tensor
        ``(4 M, C, H, W)``, of even height and width.

    Returns
    -------
    Tensor
        ``(M, C, H, W)``.
    """
    x = check_pictures(x)
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise InputError(f"the released mosaic takes each four pictures of even height and width, not {tuple(x.shape)}")
    return lay_out(x, "nearest")


def released_quadrants(output: Tensor, labels: Tensor) -> Quadrants:
    """Rate quadrants by ``s_j = 2 q_j / q_positive - 1``, unbounded, q at the four labels; each may be the positive.

    Parameters
    ----------
    output : Tensor
        Logits of the pictures, ``(4 M, classes)``.
    labels : Tensor
        ``(4 M,)``.
    """
    check_fours(len(output))
    labels = check_target(labels, check_output(output, len(output)))
    ratio, undefined = probability_ratios(output, labels)
    # Four pictures of one class are scored like any other.
    return Quadrants(2 * ratio - 1, undefined, torch.zeros_like(undefined))


def released_score_map(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Spread quadrants' scores ``(B, 4)`` over the mosaic, with ones in the four elements at its centre.

    Returns
    -------
    Tensor
        ``(B, H, W)``, the same in all channels.
    """
    height, width = check_size(size)
    spread = scores.new_empty((len(scores), height, width))
    for place, (rows, columns) in enumerate(quadrant_slices(size)):
        spread[:, rows, columns] = scores[:, place, None, None]
    spread[:, height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1] = 1
    return spread


def released_positive(relevance: Tensor) -> Tensor:
    """Scale a map twice, per element: ``relu(map / max|map|)``, over its maximum; ``(..., C, H, W)`` in [0, 1]."""
    checked = check_map(relevance, relevance.shape[:-3], relevance.shape[-2:])
    positive = quotient(checked, checked.abs().amax((-3, -2, -1), keepdim=True))[0].relu()
    return quotient(positive, positive.amax((-3, -2, -1), keepdim=True))[0]


def released_faithfulness(relevance: Tensor, impact: Tensor) -> Score:
    """Score ``sum(I r) / (sum r + 1e-9)`` over elements, ``(B,)`` in [-1, 1]; both arguments ``(B, C, H, W)``."""
    if relevance.shape != impact.shape:
        raise MapError(f"the released protocol scores elements: {tuple(impact.shape)}, not {tuple(relevance.shape)}")
    return _weighted(impact, released_positive(relevance))


def released_robustness(relevance: Tensor, masked_relevance: Tensor, logit: Tensor) -> Score:
    """Score ``1 - 2 D(delta, omega)``, omega from raw logits, and 1e-9 in every divisor.

    Parameters
    ----------
    relevance : Tensor
        ``(B, C, H, W)``.
    masked_relevance : Tensor
        Of states 1 to 9 in both orders, ``(B, 2, 9, C, H, W)``.
    logit : Tensor
        ``run.logit``, ``(B, 2, 10)``.

    Returns
    -------
    Score
        ``(B,)``, at most 1.
    """
    return released_robustness_of(released_change(relevance, masked_relevance), logit)


def released_change(relevance: Tensor, masked_relevance: Tensor) -> Tensor:
    """Compare maps ``(B, C, H, W)`` with those of masked states ``(B, 2, 9, C, H, W)``: ``(B, 2, 9)`` in [0, 1]."""
    own = released_positive(relevance)[:, None, None]
    other = released_positive(masked_relevance.flatten(0, 2)).reshape(masked_relevance.shape)
    return _distance(own, other, axes=3)


def released_robustness_of(change: Tensor, logit: Tensor) -> Score:
    """Score robustness of what `released_change` returned; ``logit`` is ``run.logit``, ``(B, 2, 10)``."""
    delta = change[:, MORF] - change[:, LERF]
    omega = (logit[:, LERF, 1:] - logit[:, MORF, 1:]) / (logit[:, MORF, :1] + EPS)
    return Score(1 - 2 * _distance(delta, omega, axes=1), ~(delta.any(1) | omega.any(1)))


def released_contrastiveness(relevance: Tensor, scores: Tensor) -> Score:
    """Score ``sum(s r) / (sum r + 1e-9)`` on the mosaic, unbounded; relevance ``(B, C, H, W)``, scores ``(B, 4)``."""
    spread = released_score_map(scores, (relevance.shape[-2], relevance.shape[-1]))
    return _weighted(spread[:, None], released_positive(relevance))


def _mask_elements(steps: Tensor, share: Tensor, t: int) -> Tensor:
    """Mask the next elements of both orders in step images ``(B, 2, C, H, W)``."""
    flat = steps.flatten(2)
    # Strictly below t n / 10, as in the records.
    count = (t * flat.shape[-1] - 1) // STATES
    order = sort_keys(share[:, MORF], share[:, LERF]).sort(dim=-1, stable=True).indices[..., :count]
    # What was masked before keeps its step.
    return flat.scatter(-1, order, flat.gather(-1, order).clamp(max=t)).reshape(steps.shape)


def _weighted(weights: Tensor, relevance: Tensor) -> Score:
    """Return ``sum(w r) / (sum r + 1e-9)`` of ``(B, ...)``, ``(B,)``."""
    mass = relevance.flatten(1).sum(1)
    return Score((weights * relevance).flatten(1).sum(1) / (mass + EPS), mass == 0)


def _distance(a: Tensor, b: Tensor, axes: int) -> Tensor:
    """Return ``D(a, b)`` over so many last axes, 1e-9 added to the divisor, for each of the first ``(...)``."""
    last = tuple(range(-axes, 0))
    return (a - b).abs().sum(last) / (a.abs().sum(last) + b.abs().sum(last) + EPS)
