"""How the methods of a run stand so far: mean GAE with its interval, and what failed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.evaluation.report import failed_rows
from relprop.store import EvaluationWriter, State

WIDTH = 1.96
"""Standard errors on either side of a mean: 95 % of a normal distribution."""


@dataclass
class Mean:
    """A mean of numbers that come bit by bit.

    Parameters
    ----------
    count : int
        How many there were, NaN not counted.
    value : float
        Their mean.
    squares : float
        Sum of their squared distances from it.
    """

    count: int = 0
    value: float = math.nan
    squares: float = 0.0

    def add(self, values: ArrayLike) -> None:
        """Take numbers in, ``(N,)``."""
        new = np.asarray(values, np.float64)
        new = new[~np.isnan(new)]
        if not len(new):
            return
        mean, old = float(new.mean()), self.count
        self.squares += float(((new - mean) ** 2).sum())
        self.count += len(new)
        if old:
            self.squares += (mean - self.value) ** 2 * old * len(new) / self.count
            mean = self.value + (mean - self.value) * len(new) / self.count
        self.value = mean

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval; NaN of fewer than two numbers."""
        if self.count < 2:
            return math.nan
        return WIDTH * math.sqrt(self.squares / (self.count - 1) / self.count)


@dataclass
class Standing:
    """How a run stands.

    Parameters
    ----------
    gae : mapping
        Mean GAE of each method.
    failed : int
        Samples that failed, counted under each method; those that can't be read are counted once.
    """

    gae: dict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    failed: int = 0

    def __str__(self) -> str:
        found = [(name, mean) for name, mean in self.gae.items() if mean.count]
        return ", ".join(
            f"{name} {mean.value:.3f}" + (f" ±{mean.half_width:.3f}" if mean.count > 1 else "") for name, mean in found
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; None for what is not known yet."""
        return {
            "failed": self.failed,
            "gae": {
                name: {"count": mean.count, "mean": _finite(mean.value), "half_width": _finite(mean.half_width)}
                for name, mean in self.gae.items()
            },
        }


def stand_of(writer: EvaluationWriter, states: Mapping[str, NDArray[np.uint8]]) -> Standing:
    """Return how methods stand by a file whose rows have these states, ``(N,)``: under ``""`` those of samples."""
    standing = Standing(failed=int((states[""] == State.FAILED).sum()))
    for name in (name for name in states if name):
        standing.gae[name].add(writer.read_method(name, np.flatnonzero(states[name] == State.DONE), ["gae"])["gae"])
        standing.failed += int(failed_rows(states[name], states[""]).sum())
    return standing


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
