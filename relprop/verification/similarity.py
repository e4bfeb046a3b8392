"""What `randomize` found: how similar maps are before and after weights are drawn anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.verification.report import finite

SIMILAR = 0.9
"""A rank correlation from here on is called the same map."""


@dataclass(frozen=True)
class Similarity:
    """How much alike the magnitudes of two maps are, of each sample.

    Parameters
    ----------
    spearman : tuple of float
        Rank correlation, in [-1, 1]; NaN where one map is the same everywhere and the other one is not.
    cosine : tuple of float
        In [0, 1]; NaN where a map is zero.
    """

    spearman: tuple[float, ...]
    cosine: tuple[float, ...]

    @property
    def means(self) -> tuple[float, float]:
        """Mean rank correlation and mean cosine over the samples that have one, else NaN."""
        return _mean(self.spearman), _mean(self.cosine)


@dataclass(frozen=True)
class Randomization:
    """What `randomize` found.

    Parameters
    ----------
    model, rules : str
        Class of the model and name of the rule set.
    contrast : str
        Against what the target was set.
    layers : int
        How many layers with weights there are.
    depths : mapping of int to Similarity
        From the number of last layers whose weights were drawn anew to how much alike the maps before and after are.
    other_class : Similarity, optional
        Of the maps of the target and of the class with the next largest output; None where there is no such class.
    """

    model: str
    rules: str
    contrast: str
    layers: int
    depths: Mapping[int, Similarity]
    other_class: Similarity | None = None

    @property
    def reading(self) -> str:
        """What the numbers say, in a line."""
        last, most = (self.depths[count].means[0] for count in (min(self.depths), max(self.depths)))
        if not most < SIMILAR:
            said = "the map is the same with random weights, so it explains nothing that the model learned"
        elif not last < SIMILAR:
            said = "the map does not depend on the last layer, so it is hardly about the class"
        else:
            said = "the map depends on the weights"
        if self.other_class is not None and self.other_class.means[0] >= SIMILAR:
            said += "; it is nearly the same for another class (Sixt et al. 2020)"
        return f"{said} (Adebayo et al. 2018: nearer to 0 is better)"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as numbers, words and lists that JSON can hold; what is undefined is None."""
        return {
            "model": self.model,
            "rules": self.rules,
            "contrast": self.contrast,
            "layers": self.layers,
            "depths": [{"layers": count, **_as_dict(found)} for count, found in self.depths.items()],
            "other_class": None if self.other_class is None else _as_dict(self.other_class),
            "reading": self.reading,
        }

    def __str__(self) -> str:
        rows = [(f"last {count} of {self.layers}", found) for count, found in self.depths.items()]
        rows += [] if self.other_class is None else [("none, map of another class", self.other_class)]
        lines = [f"{'weights drawn anew':<28} {'rank correlation':>16} {'cosine':>7}"]
        lines += [
            f"{what:<28} {rank:>16.3f} {cosine:>7.3f}" for what, (rank, cosine) in ((w, s.means) for w, s in rows)
        ]
        title = f"{self.model} under {self.rules}, contrast {self.contrast}: similarity with the map as it is"
        return "\n".join([title, *lines, f"reading: {self.reading}"])


def similarity(a: Tensor, b: Tensor) -> Similarity:
    """Compare maps ``(B, entries)``, sample by sample.

    Examples
    --------
    >>> found = similarity(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2.0, 0.0, 9.0]]))
    >>> round(found.spearman[0], 6)
    0.5
    """
    pairs = list(zip(a.double(), b.double(), strict=True))
    return Similarity(
        tuple(_correlation(one, other) for one, other in pairs), tuple(_cosine(one, other) for one, other in pairs)
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    """Return the rank correlation of two maps ``(entries,)``."""
    if torch.equal(a, b) and a.any():
        return 1.0
    return _cosine(*(ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b))))


def _cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two maps ``(entries,)``."""
    lengths = float(a.norm()) * float(b.norm())
    return float(a @ b) / lengths if lengths else math.nan


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each of ``(entries,)`` values; equal ones share the mean of theirs."""
    _, where, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0) - (counts.double() - 1) / 2
    return ranks[where]


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _as_dict(found: Similarity) -> dict[str, float | None]:
    rank, cosine = found.means
    return {"spearman": finite(rank), "cosine": finite(cosine)}
