"""What was committed of a file that somebody may be writing: nothing is locked, and nothing of it is changed.

A writer flushes the values of rows before the states that say so, and what has one size stays in its place. So what is
read after the states is right where they say done or failed, unless a row was done over meanwhile. Then `MARKS`
differ when all has been read, and it is read again. Columns are kept; what is large stays in its file until it is
needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.errors import first_line
from relprop.extras import MissingExtraError
from relprop.store.description import (
    check_identity,
    is_complete,
    method_names,
    read_config,
    read_layout,
    read_planned,
    rows_in_use,
)
from relprop.store.errors import BusyError, DamageError, MergeError
from relprop.store.hdf5.compression import require_readable
from relprop.store.hdf5.data_sets import data_sets_without_scales
from relprop.store.hdf5.opening import open_unlocked
from relprop.store.layout import Layout
from relprop.store.schema import State
from relprop.store.validation import check_skeleton

ATTEMPTS = 40
"""Times that something is read before an error says to wait."""
PAUSE = 0.05
"""Seconds between two of them."""
MARKS = ("state", "seconds", "mosaic_members")
"""Data sets that tell whether a row was done over: no two computations take the same time."""

Found = TypeVar("Found")


class _ChangedError(Exception):
    """Rows were done over while they were read."""


@dataclass(frozen=True, eq=False)
class Part:
    """What was committed of one file at one time.

    Parameters
    ----------
    path : Path
        Of the file.
    index : ndarray
        Indices of its samples, ``(N,)``, ascending.
    config, layout, versions
        As the file says.
    complete : bool
        Whether nothing of it is left to be done.
    planned : int, optional
        How many samples the whole run has.
    columns : dict
        All that is not large, ``(N, ...)``, by the paths of data sets, those of methods before those of samples.
    """

    path: Path
    index: NDArray[np.int64]
    config: Mapping[str, Any]
    layout: Layout
    versions: str
    complete: bool
    planned: int | None
    columns: dict[str, NDArray[Any]]

    def evaluated(self, group: str) -> NDArray[np.bool_]:
        """Say which rows of a group are not absent, ``(N,)``."""
        return np.asarray(self.columns[f"{group}/state"] != State.ABSENT)

    def read_large(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows ``(R,)`` of a large data set that are done.

        Raises
        ------
        BusyError
            They are not there any more as they were.
        """

        def read() -> NDArray[Any]:
            file, _ = open_unlocked(self.path)
            with file:
                places = self._places(file, rows)
                values = np.stack([file[name][place] for place in places])
            file, _ = open_unlocked(self.path, again=True)
            with file:
                places, fresh = self._places(file, rows), _marks(file)
                self._require_same({key: column[places] for key, column in fresh.items()}, rows)
            return values

        try:
            return again(self.path, read)
        except FileNotFoundError as error:  # shards were joined
            raise BusyError(f"{self.path} is in its place no more: the run has ended, open it again") from error

    def _places(self, file: h5py.File, rows: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return where the samples of rows ``(R,)`` are, ``(R,)``, in a file that may have got further ones."""
        index = file["sample"][:]
        if not np.isin(self.index[rows], index).all():
            raise _ChangedError
        return np.searchsorted(index, self.index[rows])

    def _require_same(self, fresh: dict[str, NDArray[Any]], rows: NDArray[np.int64] | slice) -> None:
        for name, column in self.columns.items():
            group, _, field = name.rpartition("/")
            if field not in MARKS:
                continue
            evaluated = self.evaluated(group)[rows]
            before, after = column[rows][evaluated], fresh.get(name, column[:0])[: len(evaluated)]
            if len(after) != len(evaluated) or before.tobytes() != after[evaluated].tobytes():
                raise _ChangedError


def read_part(path: Path) -> Part:
    """Read what was committed of a file.

    Raises
    ------
    BusyError
        It is written so fast that it can't be read meanwhile.
    MissingFileError, DamageError, MissingExtraError
        It is not there, or can't be read.
    """

    def read() -> Part:
        file, sealed = open_unlocked(path)
        with file:
            check_identity(file)
            check_skeleton(file)
            require_readable(file)
            rows = rows_in_use(file)
            found = Part(
                path,
                file["sample"][:rows],
                read_config(file),
                read_layout(file),
                str(file.attrs["versions"]),
                is_complete(file),
                read_planned(file),
                _columns(file, rows),
            )
        if not sealed:  # else each byte was compared with what was there when it was opened
            file, _ = open_unlocked(path, again=True)
            with file:
                found._require_same(_marks(file), slice(None))
        return found

    return again(path, read)


def again(path: Path, read: Callable[[], Found]) -> Found:
    """Read something of a file until no write is met.

    Raises
    ------
    BusyError
        It failed again and again.
    FileNotFoundError, DamageError, MissingExtraError, MergeError
        The file is not there, can't be read, or is of another run than it should be.
    """
    met: Exception = _ChangedError()
    for _ in range(ATTEMPTS):
        try:
            return read()
        except (FileNotFoundError, BusyError, MissingExtraError, MergeError):
            raise
        except (_ChangedError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # h5py's, and ours
            met = error
        time.sleep(PAUSE)
    if isinstance(met, DamageError):  # of a file that nobody writes any more
        raise met
    why = "rows are done over" if isinstance(met, _ChangedError) else first_line(met)
    raise BusyError(f"{path} is being written, and can't be read at this moment ({why}): wait, and try again") from met


def groups_of(file: h5py.File) -> Iterator[h5py.Group]:
    """Yield the groups that have rows, of methods before samples: a row of a method needs that of its sample."""
    for name in method_names(file):
        group = file["methods"][name]
        yield group
        if "maps" in group:
            yield group["maps"]
    yield file["samples"]


def _columns(file: h5py.File, rows: int) -> dict[str, NDArray[Any]]:
    """Read the first rows of what is not large, ``(rows, ...)`` by name, of each group states before all else."""
    found = {}
    for group in groups_of(file):
        own = data_sets_without_scales(group)
        for name in sorted(own, key=lambda name: name != "state"):
            if own[name].chunks is None:
                found[f"{group.name.lstrip('/')}/{name}"] = own[name][:rows]
    return found


def _marks(file: h5py.File) -> dict[str, NDArray[Any]]:
    groups = [group for group in groups_of(file) if "state" in group]
    return {f"{group.name.lstrip('/')}/{name}": group[name][:] for group in groups for name in MARKS if name in group}
