"""Metrics beside GAE, on the same maps: deletion, insertion, pointing game, or anybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

Anybodys = Callable[[Model, Tensor, Tensor, Tensor], Any]
"""``(model, x, relevance, target) -> (B,)`` scores; a sample that has NaN or an infinite one has none."""


class MetricError(RelpropError, ValueError):
    """A metric that is unknown, fails, or returns no score for each sample."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Samples with their maps, for metrics.

    Parameters
    ----------
    model : callable
        The model.
    x, relevance, target : Tensor
        Pictures ``(B, C, H, W)``, their maps, and classes ``(B,)``.
    mask : Tensor, optional
        bool ``(B, H, W)``: the objects.
    baseline : float, sequence of float or Tensor
        Colour of what is removed.
    key : sequence
        What metrics of anybody's that draw something are seeded by, beside their name.
    """

    model: Model
    x: Tensor
    relevance: Tensor
    target: Tensor
    mask: Tensor | None
    baseline: Baseline
    key: Sequence[object]


_DELETION = "area under the probability while the most relevant pixels are removed first"
_INSERTION = "area under the probability while the least relevant pixels are removed first"
_CURVES: dict[str, tuple[Metric, Callable[[PerturbationCurves], Tensor]]] = {
    "deletion": (Metric("deletion", _DELETION, (0.0, 1.0), "lower is better"), lambda curves: curves.deletion),
    "insertion": (Metric("insertion", _INSERTION, (0.0, 1.0), "higher is better"), lambda curves: curves.insertion),
    "srg": (
        Metric("srg", "symmetric relevance gain: insertion - deletion", (-1.0, 1.0), "higher is better"),
        lambda curves: curves.relevance_gain,
    ),
}
_OBJECTS: dict[str, tuple[Metric, Callable[[Tensor, Tensor], Any]]] = {
    "pointing_game": (
        Metric("pointing_game", "the point of largest relevance lies on the object", (0.0, 1.0), "higher is better"),
        pointing_game,
    ),
    "energy_inside": (
        Metric("energy_inside", "share of positive relevance inside the object", (0.0, 1.0), "higher is better"),
        energy_inside,
    ),
}
METRICS = (*_CURVES, *_OBJECTS)


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

    def __init__(self, chosen: Sequence[str] | Mapping[str, Anybodys | None] = ()) -> None:
        names = dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(chosen)
        self._own: dict[str, Anybodys] = {}
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
        return any(name in _OBJECTS and name not in self._own for name in self.names)

    @property
    def declared(self) -> tuple[Metric, ...]:
        """As the file declares them."""
        return tuple(self._declare(name) for name in self.names)

    def score(self, shown: Shown) -> dict[str, NDArray[Any]]:
        """Compute all of them, ``(B,)`` each."""
        curves: PerturbationCurves | None = None
        found: dict[str, NDArray[Any]] = {}
        for name in self.names:
            if name in self._own:
                found[name] = self._ask(name, shown)
            elif name in _OBJECTS:
                assert shown.mask is not None, "samples without a mask are not read where metrics need it"
                found[name] = _numpy(_OBJECTS[name][1](shown.relevance, shown.mask).value)
            else:
                curves = curves or perturbation_curves(
                    shown.model, shown.x, shown.relevance, shown.target, baseline=shown.baseline
                )
                found[name] = _numpy(_CURVES[name][1](curves))
        return found

    def _declare(self, name: str) -> Metric:
        if name in self._own:
            return Metric(name, name, (-np.inf, np.inf), "none")
        return (_CURVES if name in _CURVES else _OBJECTS)[name][0]

    def _ask(self, name: str, shown: Shown) -> NDArray[Any]:
        with torch.enable_grad(), forked_random(shown.x.device, *shown.key, name):
            try:
                values = self._own[name](shown.model, shown.x.clone(), shown.relevance.clone(), shown.target.clone())
            except Exception as error:  # whatever a metric of anybody's raises
                raise MetricError(f"metric {name} fails: {type(error).__name__}: {error}") from error
        scores = _numpy(values) if isinstance(values, Tensor) else np.asarray(values)
        if scores.shape != (len(shown.x),) or scores.dtype.kind not in "biuf":
            raise MetricError(f"metric {name} must return a number for each of {len(shown.x)} samples, not {scores!r}")
        return np.where(np.isfinite(scores), scores, np.nan).astype(np.float64)


def _numpy(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array
