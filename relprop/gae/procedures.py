"""The two protocols as steps of a run: the definition, and the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.gae.checks import Model, Target, check_map
from relprop.gae.maps import Score, positive_map
from relprop.gae.masking import Baseline, MaskingRun, masking_run
from relprop.gae.mosaics import Quadrants, make_mosaics, quadrant_scores
from relprop.gae.released import (
    released_change,
    released_contrastiveness,
    released_faithfulness,
    released_mosaics,
    released_positive,
    released_quadrants,
    released_robustness_of,
    released_run,
)
from relprop.gae.scores import Scores, collect_scores
from relprop.gae.states import MOSAIC, PICTURE, masked_states, score_state

ProtocolName = Literal["gae", "released"]


@dataclass(frozen=True)
class Procedure:
    """The steps of a protocol, for units of M mosaics, each of four pictures.

    Parameters
    ----------
    name : {"gae", "released"}
        The protocol.
    elements : bool
        Whether it masks and scores the elements of pictures, ``(C, H, W)``, and not their pixels, ``(H, W)``.
    needs_labels : bool
        Whether the classes by the data set take part.
    run : callable
        ``(model, x, target, baseline)`` to the masking run.
    quadrants : callable
        ``(output, target, labels)``, of ``4 M`` samples, to the scores of their mosaics' quadrants.
    mosaics : callable
        Pictures ``(4 M, C, H, W)`` to mosaics ``(M, C, H, W)``.
    positive : callable
        ``(relevance, lead, size, channels)`` to what speaks for the class, in [0, 1]: ``(*lead, H, W)``, or of elements
        ``(*lead, C, H, W)``.
    score : callable
        ``(run, quadrants, maps)`` to scores, as `score_state`.
    """

    name: ProtocolName
    elements: bool
    needs_labels: bool
    run: Callable[[Model, Tensor, Target, Baseline], MaskingRun]
    quadrants: Callable[[Tensor, Tensor, Tensor], Quadrants]
    mosaics: Callable[[Tensor], Tensor]
    positive: Callable[[Tensor, Sequence[int], Sequence[int], int], Tensor]
    score: Callable[[MaskingRun, Quadrants, Tensor], tuple[Scores, Score | None]]

    def check(self, shape: Sequence[int], baseline: Baseline) -> None:
        """Refuse pictures ``(C, H, W)`` or a colour of masked pixels that the protocol does not allow.

        Raises
        ------
        InputError
        """
        if not self.elements:
            return
        if torch.as_tensor(baseline).any():
            raise InputError('protocol="released" masks with zero: pass <baseline>, or leave it out', baseline="0")
        if shape[1] % 2 or shape[2] % 2:
            raise InputError(f'protocol="released" takes pictures of even height and width, not {tuple(shape)}')


def choose_procedure(name: str) -> Procedure:
    """Return the steps of a protocol.

    Raises
    ------
    InputError
        If there is no such protocol.
    """
    if name not in _PROCEDURES:
        raise InputError(f'protocol must be "gae" or "released", not {name!r}')
    return _PROCEDURES[name]


def _positive_elements(relevance: Tensor, lead: Sequence[int], size: Sequence[int], channels: int) -> Tensor:
    """Return `released_positive`, ``(*lead, C, H, W)``; of a map without channels each channel has the same."""
    checked = check_map(relevance, lead, size)
    return released_positive(checked.expand(*lead, channels, *size))


def _score_elements(run: MaskingRun, quadrants: Quadrants, maps: Tensor) -> tuple[Scores, Score | None]:
    """Score the maps of elements, ``(states, B, C, H, W)``, as `score_state` does those of pixels."""
    faithful = released_faithfulness(maps[PICTURE], run.impact)
    if len(maps) == 1:
        return collect_scores(run, quadrants, faithful), None
    change = released_change(maps[PICTURE], masked_states(maps))
    contrast = released_contrastiveness(maps[MOSAIC], quadrants.scores)
    robust = released_robustness_of(change, run.logit)
    return collect_scores(run, quadrants, faithful, robust, contrast), Score(change, torch.zeros_like(change).bool())


GAE = Procedure(
    "gae",
    False,
    False,
    lambda model, x, target, baseline: masking_run(model, x, target, baseline=baseline),
    lambda output, target, labels: quadrant_scores(output, target),
    make_mosaics,
    lambda relevance, lead, size, channels: positive_map(relevance, lead, size),
    score_state,
)
RELEASED = Procedure(
    "released",
    True,
    True,
    lambda model, x, target, baseline: released_run(model, x, target),
    lambda output, target, labels: released_quadrants(output, labels),
    released_mosaics,
    _positive_elements,
    _score_elements,
)
_PROCEDURES = {procedure.name: procedure for procedure in (GAE, RELEASED)}
