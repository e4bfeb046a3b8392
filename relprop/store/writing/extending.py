"""Extending a run by further samples, in a copy of its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.files import replacement
from relprop.files.locking import Lock
from relprop.store.damage import READ_AT_ONCE, UNREADABLE, damage_error
from relprop.store.description import method_names, read_config, read_layout, read_method, read_pictures, read_planned
from relprop.store.errors import no_cut
from relprop.store.hdf5.data_sets import data_sets_without_scales
from relprop.store.hdf5.disk_space import reserve, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import as_output_error, open_hdf5
from relprop.store.layout import Extent, Method
from relprop.store.schema import State
from relprop.store.writing import build
from relprop.store.writing.rows import runs


def is_to_grow(file: h5py.File, extent: Extent) -> bool:
    """Say whether a file lacks samples of an extent; files of streams and of format 1 never do.

    Raises
    ------
    ConfigurationError
        If it has others.
    """
    there = read_planned(file)
    if there is None:
        return False
    left_out = np.setdiff1d(file["sample"][:], np.asarray(extent.index, np.int64))
    if extent.planned < there or len(left_out):
        raise no_cut(file.filename, there, extent.planned)
    return extent.planned > there


def extended(path: Path, lock: Lock, added: Sequence[Method], extent: Extent) -> Lock:
    """Make rows for further samples, and groups for methods, in a copy that takes the file's place when it is whole.

    Whoever calls it has locked the file with ``lock``; the one that is returned is the copy's.
    """
    index = np.asarray(extent.index, np.int64)
    with replacement(path) as (part, copied), open_hdf5(path, "r", lock) as old:
        layout = read_layout(old)
        methods = [*(read_method(old, name) for name in method_names(old)), *added]
        with as_output_error(path), build.new_file(part) as file, writing(file) as held:
            size = build.allocated_bytes(build.fields_of(layout, methods), layout, len(index))
            reserve(file, path, size + path.stat().st_size)
            versions, created = json.loads(old.attrs["versions"]), str(old.attrs["created"])
            origin = build.Origin(versions, extent.planned, read_pictures(old), created)
            build.create(file, read_config(old), layout, index, origin, held)
            for method in methods:
                build.add_method(file, method, layout, held)
            copy_rows(old, file, np.searchsorted(index, old["sample"][:]))
        trim(part, path)
    return copied


def copy_rows(source: h5py.File, target: h5py.File, rows: NDArray[np.int64]) -> None:
    """Copy what is done or failed in a file into rows ``(N,)`` of another one, which may have further methods.

    Rows of the first that are -1 are left out.

    Raises
    ------
    DamageError
        If it can't be read: else it would look like an error of writing.
    """
    for states, here, there in _groups(source, target):
        evaluated = np.flatnonzero((states != State.ABSENT) & (rows >= 0))
        for name, data in data_sets_without_scales(there).items():
            step = max(1, READ_AT_ONCE // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:]))))
            for start in range(0, len(evaluated), step):
                some = evaluated[start : start + step]
                values = _read(here[name], some)
                for place, within in runs(rows[some]):
                    data[place] = values[within]


def _read(data: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Read rows ``(N,)`` of a data set, ``(N, ...)``."""
    try:
        return np.concatenate([data[there] for there, _ in runs(rows)])
    except UNREADABLE as error:
        raise damage_error(data, rows) from error


def _groups(
    source: Mapping[str, Any], target: Mapping[str, Any]
) -> Iterator[tuple[NDArray[np.uint8], h5py.Group, h5py.Group]]:
    """Yield the states ``(N,)`` and both groups of what is in a file."""
    pairs = [(source["samples"], target["samples"])]
    pairs += [(group, target["methods"][name]) for name, group in source["methods"].items()]
    for here, there in pairs:
        states = here["state"][:]
        yield states, here, there
        if "maps" in there:
            yield states, here["maps"], there["maps"]
