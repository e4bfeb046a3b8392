"""Checking the rows that a caller hands to the writer, and bringing them into the shape of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.errors import near_names
from relprop.store.damage import UNREADABLE, damage_error
from relprop.store.errors import StoreError
from relprop.store.layout import Layout
from relprop.store.schema import SHORTEST_NAME, Field, State

Rows = slice | ArrayLike
"""Rows of the file: a slice, or indices in any order, each once."""
ELLIPSIS = "…".encode()
"""Stands for what is cut off strings."""


@dataclass(frozen=True)
class Batch:
    """Values for rows in ascending order.

    Parameters
    ----------
    rows : ndarray
        int64 ``(B,)``, ascending.
    states : ndarray
        uint8 ``(B,)``.
    values : mapping
        By name of the data set, ``(B, ...)`` each.
    """

    rows: NDArray[np.int64]
    states: NDArray[np.uint8]
    values: Mapping[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return sum(values.nbytes for values in self.values.values())


def runs(rows: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Yield ascending rows ``(N,)`` that follow each other as slices: of the file, and of the batch."""
    if not len(rows):
        return
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for start, stop in pairwise(edges):
        first = int(rows[start])
        yield slice(first, first + stop - start), slice(start, stop)


def values_at(data: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Read ascending rows ``(N,)`` of a data set, ``(N, ...)``, and no others."""
    return np.concatenate([data[there] for there, _ in runs(rows)] or [data[:0]])


def make_batch(
    rows: Rows, arrays: Mapping[str, ArrayLike], fields: Mapping[str, Field], group: h5py.Group, count: int
) -> Batch:
    """Check rows ``(R,)`` and values ``(R, ...)`` against a group's data sets.

    Raises
    ------
    StoreError
        If a name is unknown, one is missing for rows that are done, or rows, shapes, types or states don't fit.
    """
    where = group.name.lstrip("/")
    chosen = _rows(rows, count, where)
    unknown = set(arrays) - set(fields)
    if unknown:
        name = sorted(unknown)[0]
        raise StoreError(f"{where} has no data set {name!r}{near_names(name, fields)}")
    order = np.argsort(chosen, kind="stable")
    values = {
        name: _values(given, fields[name], group[name], len(chosen), where)[order] for name, given in arrays.items()
    }
    states = values.pop("state", np.full(len(chosen), State.DONE, np.uint8))
    if not np.isin(states, (State.DONE, State.FAILED)).all():
        raise StoreError(f"{where}/state: rows that are written are done (1) or failed (2), not {sorted(set(states))}")
    missing = [name for name, field in fields.items() if field.required and name not in arrays]
    if missing and (states == State.DONE).any():
        raise StoreError(f"{where}: rows that are done come with {', '.join(missing)}")
    return Batch(chosen[order], states, values)


def read_rows(group: h5py.Group, rows: Rows, names: Iterable[str], count: int) -> dict[str, NDArray[Any]]:
    """Read rows of a group's data sets, ``(R, ...)`` by name, in the given order; strings as `str`."""
    where = group.name.lstrip("/")
    chosen = _rows(rows, count, where)
    order = np.argsort(chosen, kind="stable")
    found = {}
    for name in names:
        if name not in group:
            raise StoreError(f"{where} has no data set {name!r}{near_names(name, group)}")
        data = group[name]
        text = h5py.check_string_dtype(data.dtype) is not None
        values = np.empty((len(chosen), *data.shape[1:]), object if text else data.dtype)
        try:
            for there, here in runs(chosen[order]):
                values[order[here]] = data.asstr()[there] if text else data[there]
        except UNREADABLE as error:
            raise damage_error(data, chosen) from error
        found[name] = values
    return found


def scaled_maps(relevance: ArrayLike, states: ArrayLike, count: int, where: str) -> dict[str, NDArray[Any]]:
    """Divide maps ``(B, ...)`` by their largest magnitudes: float16 ``relevance``, and ``scale`` ``(B,)``.

    float16 alone would lose small ones: the elements of a map of mass one are about 2e-5. Maps of failed rows become
    NaN.
    """
    maps = np.asarray(relevance)
    if maps.dtype.kind not in "fiu" or maps.ndim < 3 or len(maps) != count:
        raise StoreError(f"{where}: relevance holds {count} maps of real numbers here, not {maps.dtype} {maps.shape}")
    maps = maps.astype(np.promote_types(maps.dtype, np.float32))  # a copy
    failed = np.broadcast_to(np.asarray(states) == State.FAILED, count)
    maps[failed] = np.nan
    axes = tuple(range(1, maps.ndim))
    bad = ~(np.isfinite(maps).all(axes) | failed)
    if bad.any():
        raise StoreError(f"{where}: {bad.sum()} maps of rows that are done hold NaN or infinite values")
    scale = np.abs(maps).max(axes, initial=0)
    maps /= np.where(scale == 0, 1, scale).reshape(-1, *[1] * len(axes))
    return {"relevance": maps.astype(np.float16), "scale": scale}


def _rows(rows: Rows, count: int, where: str) -> NDArray[np.int64]:
    """Return rows as an array ``(N,)``; refuse those that the file does not have."""
    if isinstance(rows, slice):
        return np.arange(count, dtype=np.int64)[rows]
    chosen = np.asarray(rows)
    if chosen.size == 0:
        return np.zeros(0, np.int64)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise StoreError(f"{where}: rows are a slice or whole numbers (B,), not {chosen.dtype} {chosen.shape}")
    if chosen.min() < 0 or chosen.max() >= count:
        raise StoreError(f"{where}: rows {chosen.min()} to {chosen.max()} are not among the file's {count}")
    if len(np.unique(chosen)) != len(chosen):
        raise StoreError(f"{where}: a row is given twice in one batch")
    return chosen.astype(np.int64)


def _values(given: ArrayLike, field: Field, data: h5py.Dataset, count: int, where: str) -> NDArray[Any]:
    """Return what was given for a field as an array ``(N, ...)`` of its type; refuse what does not fit."""
    name, shape = f"{where}/{field.name}", (count, *data.shape[1:])
    values = np.asarray(given, object if field.dtype == "str" else None)
    if not count and not values.size:  # an empty list knows no shape
        return np.zeros(shape, data.dtype)
    if field.dtype == "str":
        if not all(isinstance(text, str) for text in values.ravel()):
            raise StoreError(f"{name} takes strings")
        values = np.array([_storable(text, field) for text in values.ravel()], data.dtype).reshape(values.shape)
    elif not _fits(values, data.dtype):
        raise StoreError(f"{name} takes {data.dtype}, which can't hold these values of type {values.dtype}")
    else:
        values = values.astype(data.dtype)
    if values.ndim == 0:
        values = np.broadcast_to(values, shape)
    if values.shape != shape:
        raise StoreError(f"{name} takes {shape} for these rows, not {values.shape}")
    return values


def _fits(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether numbers of any shape can be held by a type; floats may be rounded, integers must be within its range."""
    if dtype.kind == "f" or values.dtype.kind == "b" or not values.size:
        return values.dtype.kind in "biuf"
    limits = np.iinfo(dtype)
    return values.dtype.kind in "iu" and bool(values.min() >= limits.min and values.max() <= limits.max)


def name_length(names: Iterable[str]) -> int:
    """Return how many bytes hold each of these names, for `Layout.name_length`; its default for none."""
    return max((max(SHORTEST_NAME, len(spelled(name))) for name in names), default=Layout.name_length)


def spelled(text: str) -> bytes:
    """Encode a text; spell out what UTF-8 or a C string can't hold, undecodable bytes of paths and NUL."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace")


def _storable(text: str, field: Field) -> bytes:
    """Encode a text, and cut what is too long for the field."""
    whole = spelled(text)
    if len(whole) <= field.length:
        return whole
    room = field.length - len(ELLIPSIS)
    if field.keeps_end:
        return ELLIPSIS + whole[len(whole) - room :].decode("utf-8", "ignore").encode()
    return whole[:room].decode("utf-8", "ignore").encode() + ELLIPSIS
