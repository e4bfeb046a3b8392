"""`Results`: the file of an evaluation, read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from relprop.analysis import frames
from relprop.analysis.reading import read_done, read_rows, read_scores
from relprop.analysis.records import (
    KEEP_MAPS,
    Failures,
    MissingMapsError,
    Ranking,
    ScoreInfo,
    UnknownMethodError,
    Values,
)
from relprop.analysis.reports import comparisons, rankings, summaries
from relprop.analysis.reports.statistics import CONFIDENCE
from relprop.analysis.selection import Selection
from relprop.errors import near_names
from relprop.store import State
from relprop.store.schema import ORDERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    import xarray as xr

    from relprop.analysis.reports.comparisons import Comparison, Comparisons
    from relprop.analysis.reports.summaries import Summary


class Results(Selection):
    """The results of an evaluation: reads what is asked for, when it is asked for, and needs no PyTorch.

    A context manager, which closes the file, for all selections from it; while it is open nobody can continue it.

    Parameters
    ----------
    path : path
        A file that `relprop.evaluate` wrote, complete or not.

    Raises
    ------
    StoreError
        If there is none, a writer is at it, or it is not a file of an evaluation.

    Examples
    --------
    ::

        with relprop.Results("run.h5") as results:
            print(results.summary())
            results["absLRP"].scores()["gae"]                # (N,), NaN where there is no score
            results[10:20].relevance("absLRP")               # (10, H, W): ten maps, and only these are read
            results.select(methods=["absLRP", "IG*"], state="done").to_pandas()
            print(results.compare("absLRP", "IG"))
            results.best(5, "absLRP").samples
    """

    # Scores and maps; the name may be left out where one method is selected

    @property
    def score_info(self) -> dict[str, ScoreInfo]:
        """Meaning, range and direction of every score that one of the methods has, GAE's first."""
        found: dict[str, ScoreInfo] = {}
        for name in self.methods:
            found |= read_scores(self._group(name)) | found
        return found

    def scores(self, method: str | None = None) -> dict[str, Values]:
        """Return all scores of a method, ``(N,)`` each; NaN where the sample is not done, or the score undefined."""
        group = self._group(method)
        return {name: read_done(group, name, self._rows) for name in read_scores(group)}

    def score(self, by: str, method: str | None = None) -> Values:
        """Return one score of a method, ``(N,)``."""
        group = self._group(method)
        known = read_scores(group)
        if by not in known:
            near = near_names(by, known) or f"; there are {', '.join(known)}"
            raise UnknownMethodError(f"{group.name.rpartition('/')[2]} has no score {by!r}{near}")
        return read_done(group, by, self._rows)

    def flags(self, method: str | None = None) -> NDArray[np.uint8]:
        """Return where scores met 0/0 or can't be told, bits of `relprop.store.FLAGS`."""
        return read_rows(self._group(method)["flags"], self._rows)

    def messages(self, method: str | None = None) -> NDArray[Any]:
        """Return why samples failed, empty where they didn't."""
        return read_rows(self._group(method)["message"], self._rows)

    def seconds(self, method: str | None = None) -> Values:
        """Return the time of all maps of a sample."""
        return read_done(self._group(method), "seconds", self._rows)

    def map_change(self, method: str | None = None) -> Values:
        """Return D(map, map of the masked state), ``(N, 2, 9)``: MoRF, LeRF."""
        return read_done(self._group(method), "map_change", self._rows)

    def relevance(self, method: str | None = None) -> NDArray[np.float32]:
        """Return relevance maps, ``(N, H, W)`` or ``(N, C, H, W)``; NaN where the sample is not done.

        Raises
        ------
        MissingMapsError
            If they were not kept.
        """
        group = self._group(method)
        if "maps" not in group:
            raise MissingMapsError(
                f"{self.path} holds no relevance maps of {group.name.rpartition('/')[2]}: {KEEP_MAPS}"
            )
        values = read_rows(group["maps/relevance"], self._rows).astype(np.float32)
        scale = read_rows(group["maps/scale"], self._rows).astype(np.float32)
        scale[self.state(method) != State.DONE] = np.nan
        return values * scale.reshape(-1, *[1] * (values.ndim - 1))

    # The masking run

    def steps(self) -> NDArray[np.uint8]:
        """Return the step at which each pixel is masked, ``(N, 2, H, W)``: MoRF, LeRF; 10 for never."""
        return read_rows(self._open["samples/steps"], self._rows)

    def masked(self, order: Literal["morf", "lerf"], state: int) -> NDArray[np.bool_]:
        """Return which pixels are masked in a state, 0 to 9, of an order, ``(N, H, W)``."""
        return np.asarray(self.steps()[:, ORDERS.index(order)] <= state)

    def impact(self) -> NDArray[np.int8]:
        """Return 1 where the model depends on the pixel and -1 where it doesn't, ``(N, H, W)``."""
        return read_rows(self._open["samples/impact"], self._rows)

    def probability(self) -> Values:
        """Return the target's probability while masking, ``(N, 2, 10)``: MoRF, LeRF."""
        return read_done(self._open["samples"], "probability", self._rows)

    def output(self) -> Values:
        """Return the model's output for each picture, ``(N, classes)``."""
        return read_done(self._open["samples"], "output", self._rows)

    # Questions

    def failures(self) -> Failures:
        """List what failed, in the masking run or under a method, and why."""
        return rankings.list_failures(self)

    def best(self, k: int, method: str | None = None, by: str = "gae") -> Ranking:
        """Return the k samples on which a method scores best, the best first; of equals the first in the data set."""
        return rankings.rank(self, k, method, by, "best")

    def worst(self, k: int, method: str | None = None, by: str = "gae") -> Ranking:
        """Return the k samples on which a method scores worst, the worst first."""
        return rankings.rank(self, k, method, by, "worst")

    def summary(self, confidence: float = CONFIDENCE, seed: int = 0) -> Summary:
        """Summarise each method: mean with bootstrap interval and median of each score, and what is missing.

        Parameters
        ----------
        confidence : float
            Of the intervals, in (0, 1).
        seed : int
            Of the bootstrap.
        """
        return summaries.summarise(self, confidence, seed)

    def compare(self, a: str, b: str, by: str = "gae", confidence: float = CONFIDENCE, seed: int = 0) -> Comparison:
        """Compare two methods on the samples that both have a score for.

        Raises
        ------
        UnknownMethodError
            If there is no such method, or score.
        AnalysisError
            If it is one and the same method.
        """
        return comparisons.compare(self, a, b, by, confidence, seed)

    def compare_all(
        self,
        a: str,
        others: Iterable[str] | None = None,
        by: str = "gae",
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> Comparisons:
        """Compare a method with several others, by default all; p-values are adjusted for their number by Holm."""
        return comparisons.compare_all(self, a, others, by, confidence, seed)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row for each sample and method: what is known of the sample, state, message and scores."""
        return frames.to_pandas(self)

    def to_xarray(self, maps: bool = False) -> xr.Dataset:
        """Return scores ``(attribution, sample)`` and the masking run ``(sample, ...)``, described as in the file.

        Parameters
        ----------
        maps : bool
            Also what is large: ``output``, ``steps``, ``impact``, and ``relevance`` of the methods that have maps. All
            of it is read at once.
        """
        return frames.to_xarray(self, maps)
