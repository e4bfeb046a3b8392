"""Giving a run other rows, more or fewer, in a copy of its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.files import replacement
from relprop.files.locking import Lock
from relprop.store.description import method_names, read_config, read_layout, read_method, read_pictures, read_planned
from relprop.store.errors import no_cut
from relprop.store.hdf5.data_sets import data_sets_without_scales
from relprop.store.hdf5.disk_space import reserve, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import as_output_error, open_hdf5
from relprop.store.hdf5.stored import Content, content_of
from relprop.store.layout import Extent, Method
from relprop.store.schema import State
from relprop.store.writing import build
from relprop.store.writing.copying import Part, copy_data


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


def extended(
    path: Path, lock: Lock, index: NDArray[np.int64], planned: int | None, added: Sequence[Method] = ()
) -> Lock:
    """Put a copy in a file's place that has rows for these samples, and further methods.

    Parameters
    ----------
    path : Path
        Of the file.
    lock : Lock
        By which the caller has locked it.
    index : ndarray
        Indices of the samples ``(N,)``, ascending: all that are done or failed are among them.
    planned : int, optional
        How many samples the whole run has then; None of a stream.
    added : sequence of Method
        Which get a group each.

    Returns
    -------
    Lock
        Of the copy.
    """
    with replacement(path) as (part, copied), open_hdf5(path, "r", lock) as old:
        layout = read_layout(old)
        methods = [*(read_method(old, name) for name in method_names(old)), *added]
        with as_output_error(path), build.new_file(part) as file, writing(file) as held:
            size = build.allocated_bytes(build.fields_of(layout, methods), layout, len(index))
            reserve(file, path, size + path.stat().st_size)
            versions, created = json.loads(old.attrs["versions"]), str(old.attrs["created"])
            origin = build.Origin(versions, planned, read_pictures(old), created)
            build.create(file, read_config(old), layout, index, origin, held)
            file.attrs.modify("format_version", old.attrs["format_version"])  # as its configuration is spelled
            for method in methods:
                build.add_method(file, method, layout, held)
            copy_rows([(old, np.searchsorted(index, old["sample"][:]))], file)
        trim(part, path)
    return copied


def copy_rows(sources: Sequence[tuple[h5py.File, NDArray[np.int64]]], target: h5py.File) -> None:
    """Copy what is done or failed in files into another one, which may have further methods.

    Parameters
    ----------
    sources : sequence of tuple
        Each file, with the rows of the target ``(N,)`` that its own ones belong into; those that are -1 are
        left out. All files have the methods of the first.
    target : h5py.File
        Open for writing.

    Raises
    ------
    DamageError
        If it can't be read: else it would look like an error of writing.
    """
    files = [(file, content_of(file), rows) for file, rows in sources]
    for name in ("samples", *(f"methods/{name}" for name in sources[0][0]["methods"])):
        parts = []
        for file, content, rows in files:
            places = np.flatnonzero((file[name]["state"][:] != State.ABSENT) & (rows >= 0))
            places = places[np.argsort(rows[places], kind="stable")]
            parts.append((file[name], content, places, rows[places]))
        _copy_group(parts, target[name])
        if "maps" in target[name]:
            of_maps = [(group["maps"], content, places, into) for group, content, places, into in parts]
            _copy_group(of_maps, target[name]["maps"])


def _copy_group(
    parts: Sequence[tuple[h5py.Group, Content, NDArray[np.int64], NDArray[np.int64]]], target: h5py.Group
) -> None:
    for name, data in data_sets_without_scales(target).items():
        copy_data([Part(group[name], content, places, rows) for group, content, places, rows in parts], data)
