"""Scores, maps and the masking run of the samples and methods of a file."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relprop.analysis.reading import read_done, read_rows, read_scores
from relprop.analysis.records import KEEP_MAPS, MissingMapsError, ScoreInfo, UnknownMethodError, Values
from relprop.analysis.selection import Selection
from relprop.errors import near_names
from relprop.store import State
from relprop.store.schema import ORDERS


class ScoredSelection(Selection):
    """A `Selection` with what was measured of it: the reading half of `relprop.Results`, which reports take."""

    # The name of a method may be left out where one is selected.

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
        columns = read_scores(group)
        if by not in columns:
            near = near_names(by, columns) or f"; there are {', '.join(columns)}"
            raise UnknownMethodError(f"{group.name.rpartition('/')[2]} has no score {by!r}{near}")
        return read_done(group, by, self._rows)

    def flags(self, method: str | None = None) -> NDArray[np.uint8]:
        """Return where scores met 0/0 or are undefined, ``(N,)`` bits of `relprop.store.FLAGS`."""
        return read_rows(self._group(method)["flags"], self._rows)

    def messages(self, method: str | None = None) -> NDArray[Any]:
        """Return why samples failed, ``(N,)``, empty where they didn't."""
        return read_rows(self._group(method)["message"], self._rows)

    def seconds(self, method: str | None = None) -> Values:
        """Return the time of all maps of each sample, ``(N,)``, in seconds."""
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
        values = self._read(group["maps/relevance"]).astype(np.float32)
        scale = read_rows(group["maps/scale"], self._rows).astype(np.float32)
        scale[self.state(method) != State.DONE] = np.nan
        return values * scale.reshape(-1, *[1] * (values.ndim - 1))

    # The masking run

    def steps(self) -> NDArray[np.uint8]:
        """Return the step at which each pixel is masked, ``(N, 2, H, W)``: MoRF, LeRF; 10 for never.

        One at which each element is, ``(N, 2, C, H, W)``, in the released protocol.
        """
        return self._read(self._open["samples/steps"])

    def masked(self, order: Literal["morf", "lerf"], state: int) -> NDArray[np.bool_]:
        """Return which pixels are masked in a state, 0 to 9, of an order, ``(N, H, W)`` or ``(N, C, H, W)``."""
        return np.asarray(self.steps()[:, ORDERS.index(order)] <= state)

    def impact(self) -> NDArray[np.int8]:
        """Return 1 where the model depends on the pixel and -1 where it doesn't, ``(N, H, W)`` or ``(N, C, H, W)``."""
        return self._read(self._open["samples/impact"])

    def probability(self) -> Values:
        """Return the target's probability while masking, ``(N, 2, 10)``: MoRF, LeRF."""
        return read_done(self._open["samples"], "probability", self._rows)

    def output(self) -> Values:
        """Return the model's output for each picture, ``(N, classes)``."""
        values = self._read(self._open["samples/output"]).astype(np.float64)
        values[read_rows(self._open["samples/state"], self._rows) != State.DONE] = np.nan
        return values
