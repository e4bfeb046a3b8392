"""Writing rows, and then the states that say that they are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.store.description import is_complete
from relprop.store.schema import State
from relprop.store.writing.open_file import states_of
from relprop.store.writing.rows import runs


def store(group: h5py.Group, rows: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
    """Write rows ``(B,)``, ascending, of a group's data sets: values ``(B, ...)`` by name."""
    places = list(runs(rows))
    for name, column in values.items():
        data = group[name]
        for there, here in places:
            data[there] = column[here]


def make_absent(groups: Iterable[h5py.Group], rows: NDArray[np.int64]) -> None:
    """Make rows ``(B,)``, ascending, absent in each group."""
    for group in groups:
        for there, _ in runs(rows):
            group["state"][there] = State.ABSENT
            group["message"][there] = ""


def count_absent(groups: Mapping[str, h5py.Group], rows: int) -> dict[str, int]:
    """Return how many of the first rows of groups are absent, by name; those with none are left out."""
    counts = {name: int((states_of(group, rows) == State.ABSENT).sum()) for name, group in groups.items()}
    return {name: count for name, count in counts.items() if count}


def set_complete(file: h5py.File, complete: bool) -> None:
    """Say whether every row is done or failed, and flush it, where the file does not say so already."""
    if is_complete(file) != complete:
        file.attrs.modify("complete", np.uint8(complete))
        file.flush()
