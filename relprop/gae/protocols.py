"""`score`: all scores of one method, for one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.gae.checks import MapError, Model, Target, check_fours, check_model, check_pictures, check_size
from relprop.gae.maps import positive_map
from relprop.gae.masking import LERF, MORF, STATES, Baseline, MaskingRun, masked, masking_run, measure_sensitivity
from relprop.gae.mosaics import Quadrants, quadrant_scores
from relprop.gae.released import (
    released_contrastiveness,
    released_faithfulness,
    released_mosaics,
    released_quadrants,
    released_robustness,
    released_run,
)
from relprop.gae.scores import Scores, collect_scores
from relprop.gae.states import MAPS_PER_SAMPLE, pictures_of_state, score_state

Method = Callable[[Tensor, Tensor], Any]
"""From pictures and classes to maps ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``, or what has them as
``relevance``."""


def score(
    model: Model,
    x: Tensor,
    method: Method,
    *,
    target: Target = None,
    baseline: Baseline = 0.0,
    protocol: Literal["gae", "released"] = "gae",
    positive: int | None = None,
) -> Scores:
    """Score a method on pictures of which each four make a mosaic.

    Parameters
    ----------
    model : callable
        From pictures to logits ``(B, classes)``, in evaluation mode.
    x : Tensor
        ``(4 M, C, H, W)``: the four of a mosaic are consecutive (top left, top right, bottom left, bottom right).
    method : callable
        ``(x, target) -> relevance``. It makes the maps of the pictures, of nine masked states in two orders, and of
        each picture's mosaic for the picture's class; always for ``4 M`` pictures at once.
    target : int, sequence of int or Tensor, optional
        Classes of the pictures, ``(4 M,)``; by default the model's predictions.
    baseline : float, sequence of float or Tensor
        Colour of masked pixels, see `masking_run`; zero in the released protocol.
    protocol : {"gae", "released"}
        The definition, or what the authors' code does; that takes four pictures.
    positive : int, optional
        Which of the four is scored, in the released protocol.

    Returns
    -------
    Scores
        ``(4 M,)``; ``(1,)`` in the released protocol.

    Raises
    ------
    InputError, TargetError, MapError

    Examples
    --------
    >>> import torch
    >>> from relprop.gae import constant_map, score
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 5)).eval()
    >>> scores = score(model, torch.randn(8, 3, 10, 10), lambda x, target: constant_map(len(x), x.shape[2:]))
    >>> scores.gae.shape
    torch.Size([8])
    """
    check_model(model)
    x = check_pictures(x)
    check_fours(len(x))
    check_size(x.shape[2:])
    if protocol == "released":
        return _released(model, x, method, target, baseline, positive)
    if protocol != "gae":
        raise ValueError(f'protocol must be "gae" or "released", not {protocol!r}')
    if positive is not None:
        raise ValueError('positive belongs to protocol="released"; under "gae" all four pictures are scored')
    run = masking_run(model, x, target, baseline=baseline)
    shown = (pictures_of_state(x, run.steps, state, baseline) for state in range(MAPS_PER_SAMPLE))
    size = x.shape[2:]
    maps = torch.stack([positive_map(maps_of(method, pictures, run.target), x.shape[:1], size) for pictures in shown])
    return score_state(run, quadrant_scores(run.output, run.target), maps)[0]


def maps_of(method: Method, x: Tensor, target: Tensor) -> Tensor:
    """Call a method for maps ``(B, ...)`` of pictures ``(B, C, H, W)`` and classes ``(B,)``, with autograd on."""
    with torch.inference_mode(False), torch.enable_grad():
        found = method(x.clone(), target.clone())
    relevance = getattr(found, "relevance", found)
    if not isinstance(relevance, Tensor):
        raise MapError(f"the method must return a tensor, not a {type(relevance).__name__}")
    return relevance.detach().to(x.device)


def masked_maps(method: Method, x: Tensor, run: MaskingRun) -> Tensor:
    """Call a method for the maps of pictures ``(B, C, H, W)`` in states 1 to 9 of both orders, ``(B, 2, 9, ...)``."""
    states = [
        [maps_of(method, masked(x, run.steps[:, order], t), run.target) for t in range(1, STATES)]
        for order in (MORF, LERF)
    ]
    return torch.stack([torch.stack(maps, 1) for maps in states], 1)


def _released(
    model: Model, x: Tensor, method: Method, target: Target, baseline: Baseline, positive: int | None
) -> Scores:
    """Score one of four pictures ``(4, C, H, W)`` by the released protocol, ``(1,)``."""
    if positive is None or not 0 <= positive < 4:
        raise ValueError(f'protocol="released" scores one of the four: give positive, 0 to 3, not {positive}')
    if torch.as_tensor(baseline).any():
        raise InputError('protocol="released" masks with zero: no baseline can be given')
    if len(x) != 4:
        raise InputError(f'protocol="released" takes four pictures of even height and width, not {tuple(x.shape)}')
    mosaic = released_mosaics(x)
    seen = measure_sensitivity(model, x, target)
    quadrants = released_quadrants(seen.output, seen.target)
    one = slice(positive, positive + 1)
    run = released_run(model, x[one], seen.target[one])
    relevance = maps_of(method, x[one], run.target)
    return collect_scores(
        run,
        Quadrants(quadrants.scores[one], quadrants.undefined[one], quadrants.one_class[one]),
        released_faithfulness(relevance, run.impact),
        released_robustness(relevance, masked_maps(method, x[one], run), run.logit),
        released_contrastiveness(maps_of(method, mosaic, run.target), quadrants.scores[one]),
    )
