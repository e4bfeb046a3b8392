"""Metrics beside GAE, on the same maps: those that have names, and custom ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.errors import RelpropError, near_names
from relprop.evaluation.seeding import forked_random
from relprop.gae.checks import Model
from relprop.gae.masking import Baseline
from relprop.metrics import PerturbationCurves, energy_inside, perturbation_curves, pointing_game
from relprop.store import Metric
from relprop.store.schema import Direction

CustomMetric = Callable[[Model, Tensor, Tensor, Tensor], Any]
"""``(model, x, relevance, target) -> (B,)`` scores; a sample that has NaN or an infinite one has none."""


class MetricError(RelpropError, ValueError):
    """A metric that is unknown, fails, or returns no score for each sample."""


@dataclass(frozen=True, eq=False)
class MetricInputs:
    """Samples with their maps, for metrics.

    Parameters
    ----------
    model : callable
        The model.
    x, relevance, target : Tensor
        Pictures ``(B, C, H, W)``, their maps, ``(B, C, H, W)`` or ``(B, 1, H, W)``, and classes ``(B,)``.
    mask : Tensor, optional
        bool ``(B, H, W)``: the objects.
    baseline : float, sequence of float or Tensor
        Colour of what is removed.
    key : sequence
        What custom metrics that draw something are seeded by, beside their name.
    """

    model: Model
    x: Tensor
    relevance: Tensor
    target: Tensor
    mask: Tensor | None
    baseline: Baseline
    key: Sequence[object]

    @cached_property
    def curves(self) -> PerturbationCurves:
        """The probability while pixels are removed, which several metrics share."""
        return perturbation_curves(self.model, self.x, self.relevance, self.target, baseline=self.baseline)

    @property
    def objects(self) -> Tensor:
        """The masks, ``(B, H, W)``; samples without one are not read where a metric needs it."""
        assert self.mask is not None
        return self.mask


@dataclass(frozen=True)
class NamedMetric:
    """A metric that has a name: how the file declares it, what computes it, and whether it needs masks of objects."""

    declared: Metric
    score: Callable[[MetricInputs], Tensor]
    needs_mask: bool = False


METRICS: dict[str, NamedMetric] = {}
"""The metrics there are, by name."""

Score = TypeVar("Score", bound=Callable[[MetricInputs], Tensor])


def metric(
    name: str, meaning: str, *, range: tuple[float, float], direction: Direction, needs_mask: bool = False
) -> Callable[[Score], Score]:
    """Name a function of `MetricInputs` that returns a score for each sample, ``(B,)``.

    Parameters
    ----------
    name, meaning : str
        As lists and files have them.
    range : tuple of float
        The least and the largest score.
    direction : {"higher is better", "lower is better", "none"}
        What a good score is.
    needs_mask : bool
        Whether samples must come with the mask of an object.
    """

    def add(score: Score) -> Score:
        METRICS[name] = NamedMetric(Metric(name, meaning, range, direction), score, needs_mask)
        return score

    return add


@metric(
    "deletion",
    "area under the probability while the most relevant pixels are removed first",
    range=(0.0, 1.0),
    direction="lower is better",
)
def deletion(inputs: MetricInputs) -> Tensor:
    """Score ``(B,)`` of Petsiuk et al., RISE, BMVC 2018."""
    return inputs.curves.deletion


@metric(
    "insertion",
    "area under the probability while the least relevant pixels are removed first",
    range=(0.0, 1.0),
    direction="higher is better",
)
def insertion(inputs: MetricInputs) -> Tensor:
    """Score ``(B,)`` of Petsiuk et al., RISE, BMVC 2018."""
    return inputs.curves.insertion


@metric("srg", "symmetric relevance gain: insertion - deletion", range=(-1.0, 1.0), direction="higher is better")
def symmetric_relevance_gain(inputs: MetricInputs) -> Tensor:
    """Score ``(B,)`` of Bluecher et al., Decoupling Pixel Flipping and Occlusion Strategy, TMLR 2024."""
    return inputs.curves.relevance_gain


@metric(
    "pointing_game",
    "the point of largest relevance lies on the object",
    range=(0.0, 1.0),
    direction="higher is better",
    needs_mask=True,
)
def pointing(inputs: MetricInputs) -> Tensor:
    """Score ``(B,)`` of Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016."""
    return pointing_game(inputs.relevance, inputs.objects).value


@metric(
    "energy_inside",
    "share of positive relevance inside the object",
    range=(0.0, 1.0),
    direction="higher is better",
    needs_mask=True,
)
def inside(inputs: MetricInputs) -> Tensor:
    """Score ``(B,)`` of Wang et al., Score-CAM, CVPR workshops 2020."""
    return energy_inside(inputs.relevance, inputs.objects).value


class Metrics:
    """The metrics of a run.

    Parameters
    ----------
    chosen : sequence or mapping
        Names of `METRICS`; in a mapping, names -> callables ``(model, x, relevance, target) -> (B,)``. Both may be
        mixed in a mapping: the value of a known name is None.

    Raises
    ------
    MetricError
        One is unknown.
    """

    def __init__(self, chosen: Sequence[str] | Mapping[str, CustomMetric | None] = ()) -> None:
        names = dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(chosen)
        self._own: dict[str, CustomMetric] = {}
        for name, function in names.items():
            if function is not None:
                self._own[name] = function
            elif name not in METRICS:
                raise MetricError(
                    f"there is no metric {name!r}{near_names(name, METRICS)}; known: {', '.join(METRICS)}"
                )
        self.names = tuple(names)

    @property
    def need_masks(self) -> bool:
        """Whether samples must come with the mask of an object."""
        return any(METRICS[name].needs_mask for name in self.names if name not in self._own)

    @property
    def declared(self) -> tuple[Metric, ...]:
        """As the file declares them."""
        return tuple(self._declare(name) for name in self.names)

    def score(self, inputs: MetricInputs) -> dict[str, NDArray[Any]]:
        """Compute all of them, ``(B,)`` each."""
        return {
            name: self._call_custom(name, inputs) if name in self._own else _numpy(METRICS[name].score(inputs))
            for name in self.names
        }

    def _declare(self, name: str) -> Metric:
        return Metric(name, name, (-np.inf, np.inf), "none") if name in self._own else METRICS[name].declared

    def _call_custom(self, name: str, inputs: MetricInputs) -> NDArray[Any]:
        """Return the scores of a custom metric, ``(B,)``, or raise a `MetricError`."""
        with torch.enable_grad(), forked_random(inputs.x.device, *inputs.key, name):
            try:
                values = self._own[name](
                    inputs.model, inputs.x.clone(), inputs.relevance.clone(), inputs.target.clone()
                )
            except Exception as error:  # whatever a custom metric raises
                raise MetricError(f"metric {name} fails: {type(error).__name__}: {error}") from error
        scores = _numpy(values) if isinstance(values, Tensor) else np.asarray(values)
        if scores.shape != (len(inputs.x),) or scores.dtype.kind not in "biuf":
            raise MetricError(f"metric {name} must return a number for each of {len(inputs.x)} samples, not {scores!r}")
        return np.where(np.isfinite(scores), scores, np.nan).astype(np.float64)


def _numpy(values: Tensor) -> NDArray[Any]:
    """Return scores ``(B,)`` as an array on the CPU."""
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array
