"""The twenty maps that a sample's scores need: of its picture, its masked states, its mosaic."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from relprop.gae.maps import Score
from relprop.gae.masking import LERF, MORF, STATES, Baseline, MaskingRun, masked
from relprop.gae.mosaics import Quadrants, make_mosaics
from relprop.gae.scores import Scores, collect_scores, contrastiveness, faithfulness, map_change, robustness

MAPS_PER_SAMPLE = 2 * STATES
"""Maps a sample: of the picture (0), of the masked states of MoRF (1 to 9) and of LeRF (10 to 18), of the mosaic."""
PICTURE, MOSAIC = 0, MAPS_PER_SAMPLE - 1


def pictures_of_state(
    x: Tensor,
    steps: Tensor,
    state: int,
    baseline: Baseline = 0.0,
    mosaics: Callable[[Tensor], Tensor] = make_mosaics,
) -> Tensor:
    """Make the pictures that a method gets of each sample in one of the states.

    Parameters
    ----------
    x : Tensor
        Pictures ``(4 M, C, H, W)``, the four of a mosaic consecutive.
    steps : Tensor
        ``run.steps`` of their masking run, ``(4 M, 2, H, W)``, of elements ``(4 M, 2, C, H, W)``.
    state : int
        0 to 19, see `MAPS_PER_SAMPLE`.
    baseline : float, sequence of float or Tensor
        As given to `masking_run`.
    mosaics : callable
        What lays each four pictures side by side.

    Returns
    -------
    Tensor
        ``(4 M, C, H, W)``; in the last state each mosaic four times, once for the class of each of its pictures.
    """
    if state == PICTURE:
        return x
    if state == MOSAIC:
        return mosaics(x).repeat_interleave(4, 0)
    order, t = (MORF, state) if state < STATES else (LERF, state - STATES + 1)
    return masked(x, steps[:, order], t, baseline)


def describe_state(state: int) -> str:
    """Say in words what is shown in a state, for messages."""
    if state in (PICTURE, MOSAIC):
        return "picture" if state == PICTURE else "mosaic"
    order, t = ("MoRF", state) if state < STATES else ("LeRF", state - STATES + 1)
    return f"picture with {t * 100 // STATES} % masked ({order})"


def masked_states(maps: Tensor) -> Tensor:
    """Return the masked states, ``(B, 2, 9, ...)``, of the maps of all twenty, ``(20, B, ...)``."""
    states: Tensor = maps[PICTURE + 1 : MOSAIC].unflatten(0, (2, STATES - 1))
    return states.movedim(2, 0)


def score_state(run: MaskingRun, quadrants: Quadrants, maps: Tensor) -> tuple[Scores, Score | None]:
    """Score the maps of all twenty states, or of the pictures alone.

    Parameters
    ----------
    run : MaskingRun
        Of the samples.
    quadrants : Quadrants
        Of the same.
    maps : Tensor
        ``(20, B, ...)``, or ``(1, B, ...)`` of a method that has no maps of the other states.

    Returns
    -------
    Scores
        Those that depend on other states are NaN where there are none.
    Score or None
        The change of the map in each masked state, `map_change`, ``(B, 2, 9)``.
    """
    faithful = faithfulness(maps[PICTURE], run.impact)
    if len(maps) == 1:
        return collect_scores(run, quadrants, faithful), None
    change = map_change(maps[PICTURE], masked_states(maps))
    contrast = contrastiveness(maps[MOSAIC], quadrants.scores)
    return collect_scores(run, quadrants, faithful, robustness(change, run.probability), contrast), change
