"""Records read out of a file: samples, scores, failures, ranks."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.analysis.tables import number, plain
from relprop.errors import RelpropError
from relprop.printed import Printed, Table

Values = NDArray[np.float64]

KEEP_MAPS = 'to keep them, evaluate with relevance="map" (--relevance map)'
"""What to do where maps are missing."""


class AnalysisError(RelpropError, ValueError):
    """A question that can't be answered from the file."""


class UnknownMethodError(RelpropError, LookupError):
    """The file has no such method or score."""


class MissingMapsError(RelpropError, LookupError):
    """The file was written without relevance maps."""


@dataclass(frozen=True)
class ScoreInfo:
    """What a score means.

    Parameters
    ----------
    name : str
        Of the score, as in the file.
    long_name : str
        In words.
    low, high : float
        Its range.
    direction : str
        ``"higher is better"``, ``"lower is better"`` or ``"none"``.
    """

    name: str
    long_name: str
    low: float
    high: float
    direction: str

    @property
    def sign(self) -> int:
        """-1 where lower is better, else 1."""
        return -1 if self.direction == "lower is better" else 1


@dataclass(frozen=True, eq=False)
class Samples:
    """What methods share, one entry a sample: all ``(N,)`` but the members.

    Parameters
    ----------
    index : ndarray
        Index in the data set.
    name : ndarray
        Path, or what the data set calls it; empty where it has no name.
    label, prediction, target : ndarray
        Class by the data set, by the model, and explained; -1 where not known.
    state : ndarray
        0 absent, 1 done, 2 failed: of the masking run.
    message : ndarray
        Why it failed, or a remark.
    flags : ndarray
        Bits, see `relprop.store.FLAGS`.
    mosaic_members : ndarray
        Sample indices of the pictures of the mosaic, ``(N, 4)``.
    quadrant : ndarray
        The sample's own place in it.
    """

    index: NDArray[np.int64]
    name: NDArray[Any]
    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    target: NDArray[np.int32]
    state: NDArray[np.uint8]
    message: NDArray[Any]
    flags: NDArray[np.uint8]
    mosaic_members: NDArray[np.int64]
    quadrant: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.index)


PARTS = {"LC": "local_consistency", "C": "contrastiveness"}
"""The two scores that GAE is the product of."""


@dataclass(frozen=True)
class Failure:
    """A sample that failed: in the masking run, where ``method`` is empty, or under a method."""

    sample: int
    name: str
    method: str
    message: str


@dataclass(frozen=True, repr=False)
class Failures(Printed):
    """What failed, and why."""

    entries: tuple[Failure, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def _blocks(self) -> list[str | Table]:
        if not self.entries:
            return ["nothing failed"]
        rows = [[str(f.sample), f.name or "-", f.method or "masking run", f.message] for f in self.entries]
        return [Table(["sample", "name", "where", "why"], rows, words=4)]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return {"failures": plain(self.entries)}


@dataclass(frozen=True)
class Ranked:
    """A sample and how a method scores on it, also by the two scores that GAE is the product of."""

    sample: int
    name: str
    label: int
    target: int
    value: float
    local_consistency: float = nan
    contrastiveness: float = nan


@dataclass(frozen=True, repr=False)
class Ranking(Printed):
    """The best or the worst samples of a method, in order.

    Parameters
    ----------
    method : str
        Of which the scores are.
    by : str
        The score.
    order : str
        ``"best"`` or ``"worst"``.
    entries : tuple of Ranked
        Samples; without those that have no score.
    ties : int
        How many samples of the file have the score of the last entry. Those are in the order of the score before it is
        cut off at 0 and 1, then in that of the data set.
    """

    method: str
    by: str
    order: str
    entries: tuple[Ranked, ...]
    ties: int = 1

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def samples(self) -> list[int]:
        """Indices in the data set, as ``Results.select(samples=...)`` takes them."""
        return [entry.sample for entry in self.entries]

    def _blocks(self) -> list[str | Table]:
        parts = [part for part in ("LC", "C") if self.by != PARTS[part]]
        rows = [
            [str(e.sample), e.name or "-", str(e.label) if e.label >= 0 else "-", str(e.target), number(e.value)]
            + [number(getattr(e, PARTS[part])) for part in parts]
            for e in self.entries
        ]
        tied = f"; {self.ties} samples tie at {number(self.entries[-1].value)}" if self.ties > 1 else ""
        head = f"{self.order} {len(self)} of {self.method} by {self.by}{tied}"
        return [head, Table(["sample", "name", "label", "target", self.by, *parts], rows, words=2)]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return dict(plain(self))
