"""Measures of the quality of a map, picture by picture.

Does relevance lie on the object? Does the model depend on it? Does it find the one picture of four that has the class?
Does it change with the weights, and with the class?
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.quality.recognised import Pictures, Recognised
from benchmarks.quality.variants import BATCH, Explain, Variant
from relprop.explainer import Explainer
from relprop.gae.maps import positive_map, quotient
from relprop.gae.masking import LERF, MORF
from relprop.gae.mosaics import make_mosaics, quadrant_slices
from relprop.gae.states import MOSAIC
from relprop.metrics import area_under, energy_inside, perturbation_curves, pointing_game
from relprop.verification.randomize import randomized_copies, weight_groups
from relprop.verification.similarity import similarity

STEPS, REGION = 5, 16
"""Squares of so many pixels are removed, an equal part of them in each step."""


@dataclass(frozen=True)
class Measured:
    """What one variant came to on one model.

    Attributes
    ----------
    values
        A value per picture, ``(B,)``, by measure; NaN where it is undefined.
    seconds
        Processor time per map, after a first batch.
    """

    values: Mapping[str, Tensor]
    seconds: float


@dataclass(frozen=True)
class Redrawn:
    """Copies of a model whose last layers are drawn anew, by the name of the measure, and the pictures they explain.

    ``runner_up``, ``(B,)``, is the class of each picture with the second largest output.
    """

    copies: Mapping[str, nn.Module]
    pictures: Pictures
    runner_up: Tensor


def redraw(recognised: Recognised, count: int) -> Redrawn:
    """Draw the last layer, the last half, and all layers of a model anew; explain the first labelled pictures."""
    pictures = _first(recognised.labelled, count)
    plan = Explainer(recognised.model, rules="gradient").plan(pictures.x[:BATCH])
    layers = len(weight_groups(plan))
    depths = {"redrawn_last": 1, "redrawn_half": max(1, layers // 2), "redrawn_all": layers}
    copies = randomized_copies(recognised.model, plan, sorted(set(depths.values())))
    output = logits(recognised.model, pictures.x).scatter(1, pictures.target[:, None], -torch.inf)
    return Redrawn({name: copies[depth] for name, depth in depths.items()}, pictures, output.argmax(1))


def judge(variant: Variant, recognised: Recognised, redrawn: Redrawn | None = None) -> Measured:
    """Measure a variant on every picture.

    Raises
    ------
    RelpropError
        The model, or this version of relprop, can't be explained so.
    """
    objects, labelled = recognised.objects, recognised.labelled
    assert objects.masks is not None
    explain = variant.on(recognised.model, recognised.setting)
    explain(_first(labelled, BATCH))  # captures and rewrites
    start = time.process_time()
    on_objects, on_labelled = explain(objects), explain(labelled)
    seconds = (time.process_time() - start) / (len(on_objects) + len(on_labelled))
    values = {
        "inside": energy_inside(on_objects, objects.masks).value,
        "pointing": pointing_game(on_objects, objects.masks).value,
        **relevance_gains(recognised.model, labelled, on_labelled),
        "quadrant": own_quadrant(explain, labelled),
    }
    if redrawn is not None:
        values |= similarities(variant, recognised, explain, redrawn)
    return Measured(values, seconds)


def relevance_gains(model: nn.Module, pictures: Pictures, relevance: Tensor) -> dict[str, Tensor]:
    """Return the symmetric relevance gain of the target's probability, and of its log-odds, ``(B,)`` each.

    The relevance is ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``.
    """

    def watched(x: Tensor) -> Tensor:  # channels last is twice as fast on a processor
        return log_odds(model(x.contiguous(memory_format=torch.channels_last)))

    gains: dict[str, list[Tensor]] = {"gain": [], "log_odds_gain": []}
    for start in range(0, len(relevance), BATCH):
        part = (t[start : start + BATCH] for t in (pictures.x, relevance, pictures.target))
        curves = perturbation_curves(watched, *part, steps=STEPS, region=REGION)
        odds = curves.logit
        for name, curve in (("gain", odds.sigmoid()), ("log_odds_gain", odds)):
            area = area_under(curve, curves.fraction)
            gains[name].append(area[:, LERF] - area[:, MORF])
    return {name: torch.cat(parts) for name, parts in gains.items()}


def log_odds(output: Tensor) -> Tensor:
    """Return log p/(1 - p) of every class, of logits ``(B, classes)``, in the same shape and float64.

    Examples
    --------
    >>> log_odds(torch.tensor([[0.0, 0.0, 0.0, 0.0]])).exp()[0, 0]
    tensor(0.3333, dtype=torch.float64)
    >>> log_odds(torch.tensor([[500.0, 0.0]]))[0]
    tensor([ 500., -500.], dtype=torch.float64)
    """
    logs = output.double().log_softmax(1)
    # 1 - p is the sum of the others; only where p is nearly one does the difference cancel.
    top = logs.argmax(1, keepdim=True)
    others = logs.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    rest = torch.log1p(-logs.scatter(1, top, -torch.inf).exp())
    return logs - rest.scatter(1, top, others)


def own_quadrant(explain: Explain, pictures: Pictures) -> Tensor:
    """Return the share of positive relevance that falls into the picture's own quadrant, ``(B,)``; chance is 0.25.

    Each four pictures of unlike classes make a mosaic at half size, which is explained for the class of each in turn.
    Channels are summed, the two centre rows and columns left out. NaN where no mosaic is left for a picture.
    """
    found = torch.full((len(pictures.x),), torch.nan)
    for four in fours(pictures.target.tolist()):
        mosaic = make_mosaics(pictures.x[four]).expand(4, -1, -1, -1)
        indices = tuple(pictures.indices[member] for member in four)
        maps = explain(Pictures(mosaic, pictures.target[four], indices, state=MOSAIC))
        found[four] = quadrant_shares(maps).float()
    return found


def quadrant_shares(maps: Tensor) -> Tensor:
    """Return which share of the positive part of map i lies in quadrant i, ``(4,)``, of four maps of a mosaic.

    Maps are ``(4, C, H, W)``, ``(4, 1, H, W)`` or ``(4, H, W)``.
    """
    size = maps.shape[-2:]
    positive = positive_map(maps, (4,), size).double()
    height, width = size
    positive[:, height // 2 - 1 : height // 2 + 1] = 0
    positive[:, :, width // 2 - 1 : width // 2 + 1] = 0
    own = torch.stack(
        [positive[place][rows, columns].sum() for place, (rows, columns) in enumerate(quadrant_slices(size))]
    )
    share, undefined = quotient(own, positive.sum((1, 2)))
    return torch.where(undefined, torch.nan, share)


def fours(classes: list[int]) -> list[list[int]]:
    """Group samples by four of unlike classes, first come first served; what is left over is in none.

    Examples
    --------
    >>> fours([7, 7, 1, 2, 3, 4, 5, 6])
    [[0, 2, 3, 4], [1, 5, 6, 7]]
    """
    groups: list[list[int]] = []
    for sample, label in enumerate(classes):
        open_groups = [g for g in groups if len(g) < 4 and label not in (classes[member] for member in g)]
        if open_groups:
            open_groups[0].append(sample)
        else:
            groups.append([sample])
    return [group for group in groups if len(group) == 4]


def similarities(variant: Variant, recognised: Recognised, explain: Explain, redrawn: Redrawn) -> dict[str, Tensor]:
    """Return rank correlations of maps' magnitudes with those of redrawn copies, and of the second class, ``(B,)``."""
    pictures = redrawn.pictures
    maps = _magnitudes(explain(pictures))
    copies = {name: variant.on(copied, recognised.setting) for name, copied in redrawn.copies.items()}
    others = {name: explain_copy(pictures) for name, explain_copy in copies.items()}
    others["other_class"] = explain(replace(pictures, target=redrawn.runner_up))
    return {name: torch.tensor(similarity(maps, _magnitudes(other)).spearman) for name, other in others.items()}


def _magnitudes(relevance: Tensor) -> Tensor:
    """Return the magnitudes of maps ``(B, C, H, W)``, of which channels are summed, or ``(B, H, W)``: ``(B, H W)``."""
    maps = relevance.sum(1) if relevance.ndim == 4 else relevance
    return maps.detach().double().abs().flatten(1)


def _first(pictures: Pictures, count: int) -> Pictures:
    return Pictures(pictures.x[:count], pictures.target[:count], pictures.indices[:count])


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's output ``(B, classes)`` for pictures ``(B, C, H, W)``, without a graph."""
    with torch.inference_mode():
        output: Tensor = model(x).clone()
    return output
