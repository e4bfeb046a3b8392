"""Copying rows of a data set from some files into another, in blocks of many rows and, where possible, as stored."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.store.damage import READ_AT_ONCE, UNREADABLE, damage_error
from relprop.store.hdf5.stored import Content
from relprop.store.writing.rows import runs, values_at


@dataclass(frozen=True, eq=False)
class Part:
    """What is copied of one file.

    Parameters
    ----------
    data : Dataset
        To be read.
    content : callable
        Reads the bytes of its file.
    places : ndarray
        Rows of it, ``(N,)``.
    rows : ndarray
        Where they belong in the other file, ``(N,)``, ascending.
    """

    data: h5py.Dataset
    content: Content
    places: NDArray[np.int64]
    rows: NDArray[np.int64]

    def within(self, start: int, stop: int) -> Part:
        """Return what belongs between two rows of the other file."""
        chosen = slice(*np.searchsorted(self.rows, (start, stop)))
        return replace(self, places=self.places[chosen], rows=self.rows[chosen])


def copy_data(parts: Sequence[Part], target: h5py.Dataset) -> None:
    """Copy rows of data sets into one: what is stored alike keeps its bytes, and is not decoded.

    Raises
    ------
    DamageError
        If something can't be read: else it would look like an error of writing.
    """
    storage = _storage_of(target)
    alike = all(_storage_of(part.data) == storage for part in parts)
    by_chunk = alike and target.chunks == (1, *target.shape[1:])
    tables = [_chunks_of(part) for part in parts] if by_chunk else []
    step = max(1, READ_AT_ONCE // _row_bytes(target))
    for start in range(0, len(target), step):
        block = [part.within(start, start + step) for part in parts]
        if by_chunk:
            _copy_chunks([pair for pair in zip(block, tables, strict=True) if len(pair[0].rows)], target)
        elif some := [part for part in block if len(part.rows)]:
            _copy_values(some, target, alike and target.chunks is None)


def _storage_of(data: h5py.Dataset) -> tuple[Any, ...]:
    """Return what settles the bytes of a row: type, shape, chunks and filters."""
    plist = data.id.get_create_plist()
    chunks = plist.get_chunk() if plist.get_layout() == h5py.h5d.CHUNKED else None
    filters = [plist.get_filter(place) for place in range(plist.get_nfilters())]
    return data.id.get_type(), data.id.shape[1:], chunks, filters


def _row_bytes(data: h5py.Dataset) -> int:
    return max(1, int(data.dtype.itemsize) * int(np.prod(data.shape[1:])))


def _copy_values(parts: Sequence[Part], target: h5py.Dataset, alike: bool) -> None:
    rows = np.concatenate([part.rows for part in parts])
    values = np.concatenate([_stored_values(part) if alike else _values(part) for part in parts])
    order = np.argsort(rows)
    rows, values = rows[order], values[order]
    for place, within in runs(rows):
        target[place] = values[within]


def _values(part: Part) -> NDArray[Any]:
    """Read rows of any data set, ``(N, ...)``."""
    try:
        return values_at(part.data, part.places)
    except UNREADABLE as error:
        raise damage_error(part.data, part.places) from error


def _stored_values(part: Part) -> NDArray[Any]:
    """Read rows of a data set that is in one piece, ``(N, ...)``."""
    begin, each = part.data.id.get_offset(), _row_bytes(part.data)
    found = []
    for there, _ in runs(part.places):
        view = _read(part, begin + there.start * each, begin + there.stop * each)
        found.append(np.frombuffer(view, part.data.dtype).reshape(-1, *part.data.shape[1:]))
    return np.concatenate(found)


def _read(part: Part, start: int, stop: int) -> memoryview:
    try:
        view = part.content(start, stop)
    except UNREADABLE as error:
        raise damage_error(part.data, part.places) from error
    if len(view) < stop - start:
        raise damage_error(part.data, part.places)
    return view


def _chunks_of(part: Part) -> NDArray[np.uint64]:
    """Return where the chunk of each row is: place, bytes, filters left out, ``(len(data), 3)``; no bytes for none."""
    found = array("Q")
    try:
        part.data.id.chunk_iter(
            lambda info: found.extend((info.chunk_offset[0], info.byte_offset, info.size, info.filter_mask))
        )
    except UNREADABLE as error:
        raise damage_error(part.data, part.places) from error
    listed = np.array(found, np.uint64).reshape(-1, 4)
    listed = listed[listed[:, 0] < len(part.data)]  # who knows what an unchecked file says
    table = np.zeros((len(part.data), 3), np.uint64)
    table[listed[:, 0]] = listed[:, 1:]
    if not table[part.places, 1].all():
        raise damage_error(part.data, part.places)
    return table


def _copy_chunks(parts: Sequence[tuple[Part, NDArray[np.uint64]]], target: h5py.Dataset) -> None:
    beyond, write = (0,) * (target.ndim - 1), target.id.write_direct_chunk
    chunks = [chunk for part, table in parts for chunk in _stored_chunks(part, table)]
    chunks.sort(key=lambda chunk: chunk[0])  # in the order of the index of chunks
    for row, mask, content in chunks:
        write((row, *beyond), content, mask)


def _stored_chunks(part: Part, table: NDArray[np.uint64]) -> Iterator[tuple[int, int, memoryview]]:
    """Yield rows of the other file, which filters were left out, and chunks, read in the order of the file.

    The ``table`` is what `_chunks_of` returns.
    """
    entries = table[part.places].astype(np.int64)
    order = np.argsort(entries[:, 0])
    starts, sizes, masks = entries[order].T
    stops, rows = starts + sizes, part.rows[order].tolist()
    edges = [0, *(np.flatnonzero(starts[1:] != stops[:-1]) + 1).tolist(), len(rows)]
    for first, end in pairwise(edges):
        begin = int(starts[first])
        view = _read(part, begin, int(stops[end - 1]))
        places = (starts[first:end] - begin).tolist(), (stops[first:end] - begin).tolist()
        for row, mask, at, until in zip(rows[first:end], masks[first:end].tolist(), *places, strict=True):
            yield row, mask, view[at:until]
