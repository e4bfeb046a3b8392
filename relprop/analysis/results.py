"""`Results`: the file of an evaluation, read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.analysis import frames
from relprop.analysis.records import (
    Failures,
    Ranking,
)
from relprop.analysis.reports import comparisons, rankings, runs, summaries
from relprop.analysis.reports.statistics import CONFIDENCE
from relprop.analysis.scores import ScoredSelection

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    import pandas as pd
    import xarray as xr

    from relprop.analysis.plots.plot import Plots
    from relprop.analysis.reports.comparisons import Comparison, Comparisons
    from relprop.analysis.reports.summaries import Summary


class Results(ScoredSelection):
    """The results of an evaluation: reads values when they are needed, and needs no PyTorch.

    A context manager, which closes the file, for all selections from it; while it is open nobody can continue it. Of a
    run that is being written it is what was committed when this was made, and the run goes on.

    Parameters
    ----------
    path : path
        A file that `relprop.evaluate` wrote, or is writing; or the folder of its shards, of which finished and
        unfinished ones are one run. A file with such a folder beside it is read from there.

    Raises
    ------
    StoreError
        If there is none, or it is not a file of an evaluation. A `BusyError` says to wait.

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

    def failures(self) -> Failures:
        """List what failed, in the masking run or under a method, and why."""
        return rankings.list_failures(self)

    def best(self, k: int, method: str | None = None, by: str = "gae") -> Ranking:
        """Return the k samples on which a method scores best, the best first; ties as in `Ranking`."""
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

    def compare_runs(
        self,
        other: Results,
        methods: Iterable[str] | None = None,
        by: str = "gae",
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> Comparisons:
        """Compare this run with another one, of another model say: each method that both have, on the same samples.

        Samples are the same that have the same name, or the same index where they have no names. P-values are adjusted
        for the number of methods by Holm.

        Raises
        ------
        AnalysisError
            If the files have no method, or no sample, in common.
        """
        return runs.compare_runs(self, other, methods, by, confidence, seed)

    def plot(
        self,
        folder: str | PathLike[str] | None = None,
        *,
        pictures: str | PathLike[str] | None = None,
        by: str = "gae",
        k: int = 5,
        seed: int = 0,
    ) -> Plots:
        """Draw all plots: they show themselves in a notebook, and go into a folder where one is given.

        Parameters
        ----------
        folder : path, optional
            Where PNG files go; it is made if it is missing.
        pictures : path, optional
            Folder of the data set's pictures.
        by : str
            The score by which samples are best and worst; the bars show it, too.
        k : int
            How many best and worst samples are drawn.
        seed : int
            Of the bootstrap.
        """
        from relprop.analysis.plots.plot import plot  # drawing is slow to import

        return plot(self, folder, pictures=pictures, by=by, k=k, seed=seed)

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
