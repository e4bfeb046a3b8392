"""The scores of GAE, as functions of maps that are computed already, by whatever method."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import torch
from torch import Tensor

from relprop.gae.checks import MapError
from relprop.gae.maps import Score, distance, positive_map, quotient, weighted_mean
from relprop.gae.masking import LERF, MORF, STATES, MaskingRun
from relprop.gae.mosaics import Quadrants, score_map


class Flag(IntFlag):
    """Where a sample's scores met 0/0, taken as zero, or are undefined; several may be set."""

    FAITHFULNESS = 1
    """The map has no positive relevance."""
    ROBUSTNESS = 2
    """Neither maps nor outputs change, or the map and that of a masked state are both zero."""
    CONTRASTIVENESS = 4
    """The mosaic's map has no positive relevance, or the sample's own probability is zero."""
    IMPACT = 8
    """The model's gradient vanished in some state of the masking run."""
    ONE_CLASS = 16
    """The mosaic has fewer than two classes: contrastiveness and GAE are NaN."""


@dataclass(frozen=True)
class Scores:
    """What GAE says of each sample's explanation; higher is better everywhere. All ``(B,)``.

    Parameters
    ----------
    faithfulness : Tensor
        F in [-1, 1]: does relevance lie where masking takes the class away?
    robustness : Tensor
        In [-1, 1]: does the map change as much as the model's output when pixels are masked?
    unclipped_sum : Tensor
        F + robustness in [-2, 2], before it is clipped at zero.
    local_consistency : Tensor
        LC = relu(F + robustness) / 2 in [0, 1].
    contrastiveness_raw : Tensor
        In [-1, 1]: does relevance lie in the mosaic's quadrants of the class? Below zero it lies in the others.
    contrastiveness : Tensor
        C = relu(contrastiveness_raw) in [0, 1].
    gae : Tensor
        LC * C in [0, 1].
    flags : Tensor
        uint8, see `Flag`.

    Notes
    -----
    What was not computed, as the maps of masked states of a precomputed method, is NaN, and so is what follows from
    it.
    """

    faithfulness: Tensor
    robustness: Tensor
    unclipped_sum: Tensor
    local_consistency: Tensor
    contrastiveness_raw: Tensor
    contrastiveness: Tensor
    gae: Tensor
    flags: Tensor


def faithfulness(relevance: Tensor, impact: Tensor) -> Score:
    """Score whether relevance lies where the model depends on it: ``sum(I r) / sum(r)``.

    Parameters
    ----------
    relevance : Tensor
        ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``.
    impact : Tensor
        ``run.impact``, ``(B, H, W)``.

    Returns
    -------
    Score
        ``(B,)`` in [-1, 1], higher is better; undefined where nothing is relevant.
    """
    return weighted_mean(impact, positive_map(relevance, impact.shape[:1], impact.shape[1:]).to(impact.device))


def map_change(relevance: Tensor, masked_relevance: Tensor) -> Score:
    """Compare a map with those of masked states, by ``D(r_0, r_t)``.

    Parameters
    ----------
    relevance : Tensor
        ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``.
    masked_relevance : Tensor
        Maps of other states of the same pictures, ``(B, ..., C, H, W)`` or, if so is ``relevance``, without C. Any
        axes may lie between.

    Returns
    -------
    Score
        ``(B, ...)`` in [0, 1], 0 for equal maps; undefined where both have no positive relevance.
    """
    size = relevance.shape[-2:]
    lead = masked_relevance.shape[: masked_relevance.ndim - relevance.ndim + 1]
    if lead[:1] != relevance.shape[:1]:
        raise MapError(f"maps of {tuple(masked_relevance.shape)} are not of the samples of {tuple(relevance.shape)}")
    other = positive_map(masked_relevance, lead, size)
    own = positive_map(relevance, relevance.shape[:1], size)
    return distance(own.reshape(len(own), *[1] * (len(lead) - 1), *size), other, axes=2)


def robustness(change: Score, probability: Tensor) -> Score:
    """Score whether the map changes as much as the output: ``1 - 2 D(delta, omega)``.

    delta_t is the change of the map under MoRF minus that under LeRF, and omega_t the output under LeRF minus that
    under MoRF, over the output of the unmasked picture.

    Parameters
    ----------
    change : Score
        `map_change` of states 1 to 9 in both orders, ``(B, 2, 9)``.
    probability : Tensor
        ``run.probability``, ``(B, 2, 10)``.

    Returns
    -------
    Score
        ``(B,)`` in [-1, 1], higher is better; undefined where no map and no output changes, or some quotient is 0/0.
    """
    if change.value.shape != (len(probability), 2, STATES - 1) or probability.shape[1:] != (2, STATES):
        raise MapError(
            f"robustness needs changes (B, 2, {STATES - 1}) and outputs (B, 2, {STATES}), not "
            f"{tuple(change.value.shape)} and {tuple(probability.shape)}"
        )
    # State 0 is left out: there both differences are zero, and add nothing to either sum.
    changed, output = change.value.to(probability.device), probability
    delta = changed[:, MORF] - changed[:, LERF]
    omega, no_output = quotient(output[:, LERF, 1:] - output[:, MORF, 1:], output[:, MORF, :1])
    apart = distance(delta, omega, axes=1)
    return Score(
        torch.where(apart.undefined, 0.0, 1 - 2 * apart.value),
        apart.undefined | change.undefined.flatten(1).any(1).to(probability.device) | no_output[:, 0],
    )


def local_consistency(faithfulness: Tensor, robustness: Tensor) -> Tensor:
    """Return ``relu(F + robustness) / 2`` of ``(B,)`` scores, in [0, 1]."""
    return (faithfulness + robustness).relu() / 2


def contrastiveness(relevance: Tensor, scores: Tensor) -> Score:
    """Score whether the map of a mosaic lies in the quadrants of the class: ``sum(s r) / sum(r)``.

    Parameters
    ----------
    relevance : Tensor
        Map of each sample's mosaic for the sample's class, ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``.
    scores : Tensor
        ``Quadrants.scores``, ``(B, 4)``.

    Returns
    -------
    Score
        C_raw ``(B,)`` in [-1, 1], higher is better; undefined where nothing is relevant.
    """
    size = relevance.shape[-2:]
    return weighted_mean(score_map(scores, size), positive_map(relevance, scores.shape[:1], size).to(scores.device))


def collect_scores(
    run: MaskingRun, quadrants: Quadrants, faithful: Score, robust: Score | None = None, contrast: Score | None = None
) -> Scores:
    """Put the scores of one method together, with LC, C and GAE.

    Parameters
    ----------
    run : MaskingRun
        Of the same samples.
    quadrants : Quadrants
        Of the same samples.
    faithful, robust, contrast : Score
        What `faithfulness`, `robustness` and `contrastiveness` returned, ``(B,)``; None where the method has no maps
        for it, which gives NaN.

    Returns
    -------
    Scores
    """
    unknown = Score(torch.full_like(faithful.value, torch.nan), torch.zeros_like(faithful.undefined))
    robust, contrast = robust or unknown, contrast or unknown
    raw = torch.where(quadrants.one_class, torch.nan, contrast.value)
    consistency = local_consistency(faithful.value, robust.value)
    flags = torch.zeros(len(faithful.value), dtype=torch.uint8, device=faithful.value.device)
    for flag, where in (
        (Flag.FAITHFULNESS, faithful.undefined),
        (Flag.ROBUSTNESS, robust.undefined),
        (Flag.CONTRASTIVENESS, contrast.undefined | quadrants.undefined),
        (Flag.IMPACT, run.undefined),
        (Flag.ONE_CLASS, quadrants.one_class),
    ):
        flags |= where.to(torch.uint8) * int(flag)
    return Scores(
        faithful.value,
        robust.value,
        faithful.value + robust.value,
        consistency,
        raw,
        raw.relu(),
        consistency * raw.relu(),
        flags,
    )


def score_maps(
    run: MaskingRun,
    quadrants: Quadrants,
    relevance: Tensor,
    masked_relevance: Tensor | None = None,
    mosaic_relevance: Tensor | None = None,
) -> Scores:
    """Score the maps of one method for a batch.

    Parameters
    ----------
    run : MaskingRun
        What the model does with these pictures, see `masking_run`.
    quadrants : Quadrants
        What their mosaics hold, see `quadrant_scores`.
    relevance : Tensor
        Maps of the pictures, ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``.
    masked_relevance : Tensor, optional
        Maps of the masked states 1 to 9 in both orders, ``(B, 2, 9, ...)``, for the same classes.
    mosaic_relevance : Tensor, optional
        Maps of each sample's mosaic for its own class, ``(B, ...)``.

    Returns
    -------
    Scores
    """
    faithful = faithfulness(relevance, run.impact)
    robust = contrast = None
    if masked_relevance is not None:
        robust = robustness(map_change(relevance, masked_relevance), run.probability)
    if mosaic_relevance is not None:
        contrast = contrastiveness(mosaic_relevance, quadrants.scores)
    return collect_scores(run, quadrants, faithful, robust, contrast)
