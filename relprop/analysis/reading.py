"""Reading rows of data sets, no more than are needed."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.analysis.records import ScoreInfo
from relprop.store import State
from relprop.store.damage import UNREADABLE, damage_error
from relprop.store.schema import METHOD_FIELDS

Rows = NDArray[np.int64]


def read_rows(data: h5py.Dataset, rows: Rows) -> NDArray[Any]:
    """Read rows of a data set, in any order.

    Parameters
    ----------
    data : Dataset
        ``(N, ...)``.
    rows : ndarray
        ``(R,)``.

    Returns
    -------
    ndarray
        ``(R, ...)``; strings as objects.

    Raises
    ------
    DamageError
        Some of it is not what was written, or can't be read; it says which samples.
    """
    try:
        return _read(data, rows)
    except UNREADABLE as error:
        raise damage_error(data, rows) from error


def _read(data: h5py.Dataset, rows: Rows) -> NDArray[Any]:
    """Read rows ``(N,)`` of a data set, ``(N, ...)``; strings as `str`."""
    source = data.asstr() if h5py.check_string_dtype(data.dtype) else data
    if not len(rows):
        return np.empty((0, *data.shape[1:]), object if source is not data else data.dtype)
    first, last = int(rows.min()), int(rows.max()) + 1
    if data.ndim == 1 or np.array_equal(rows, np.arange(first, last)):
        block: NDArray[Any] = source[first:last]
        return block[rows - first]
    # What is large has a chunk for each sample: row by row reads no more than is needed.
    found = np.empty((len(rows), *data.shape[1:]), data.dtype)
    for place, row in enumerate(rows.tolist()):
        found[place] = data[row]
    return found


def read_done(group: h5py.Group, name: str, rows: Rows) -> NDArray[np.float64]:
    """Read rows of a quantity, ``(R, ...)``; NaN where the row is not done."""
    values = read_rows(group[name], rows).astype(np.float64)
    values[read_rows(group["state"], rows) != State.DONE] = np.nan
    return values


def read_scores(group: h5py.Group) -> dict[str, ScoreInfo]:
    """Return what is known of the scores in a method's group: GAE's first, then further ones."""
    found = {}
    order = [field.name for field in METHOD_FIELDS]
    for name in sorted(group, key=lambda name: (order.index(name) if name in order else len(order), name)):
        data = group[name]
        if isinstance(data, h5py.Dataset) and data.ndim == 1 and "direction" in data.attrs:
            low, high = map(float, data.attrs["valid_range"])
            found[name] = ScoreInfo(name, str(data.attrs["long_name"]), low, high, str(data.attrs["direction"]))
    return found
