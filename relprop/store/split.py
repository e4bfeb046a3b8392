"""The file of a run, cut: into shards that can be continued each by itself, or to its first samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.files import written_whole
from relprop.store.description import (
    method_names,
    read_config,
    read_layout,
    read_method,
    read_pictures,
    read_planned,
)
from relprop.store.errors import StoreError
from relprop.store.hdf5.disk_space import reserve, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import as_output_error
from relprop.store.hdf5.seal import seal
from relprop.store.reading import open_evaluation
from relprop.store.schema import State
from relprop.store.writing import build
from relprop.store.writing.extending import copy_rows


def split(path: str | PathLike[str], shards: Mapping[Path, tuple[int, ArrayLike]], parts: int) -> None:
    """Write shards of a run that was not cut, each whole or not at all. None of them is marked complete.

    Parameters
    ----------
    path : path
        The file of the run.
    shards : mapping
        From the path of each shard that shall be made to its number, and to the indices of its samples, ``(N,)`` and
        ascending, all of which are in the file.
    parts : int
        How many shards there are in all.

    Raises
    ------
    StoreError
        The file is a shard itself, of a stream, or of format 1.
    OutputError
        A shard is there already, or can't be written.
    MissingFileError, BusyError, FormatError, DamageError
        The file can't be read.
    """
    with open_evaluation(path) as file:
        config, planned = read_config(file), read_planned(file)
        if planned is None or config["shard"] != [0, 1]:
            what = "is a shard itself" if config["shard"] != [0, 1] else "is of a stream, or of format 1"
            raise StoreError(f"{path} {what}, and can't be cut into shards: continue it in one process")
        for target, (part, samples) in shards.items():
            _write(file, target, {**config, "shard": [part, parts]}, np.asarray(samples, np.int64), planned, new=True)


def cut(
    path: str | PathLike[str],
    out: str | PathLike[str],
    samples: ArrayLike,
    *,
    again: ArrayLike = (),
    stopped: str = "",
) -> None:
    """Write the file of a run as one that has some of its samples alone, whole or not at all.

    Parameters
    ----------
    path, out : path
        The file of the run, and the one to write or replace, which may be the same.
    samples : array_like
        Indices ``(N,)`` of those that are kept, ascending; all of them are in the file.
    again : array_like
        Of which these are to be done again. The run is complete where there are none, and all others are done or
        failed.
    stopped : str
        By which rule the run ended there.

    Raises
    ------
    MissingFileError, BusyError, FormatError, DamageError, OutputError
        The file can't be read; the other one can't be written.
    """
    index = np.asarray(samples, np.int64)
    with open_evaluation(path) as file:
        groups = [file["samples"], *(file["methods"][name] for name in method_names(file))]
        rows = np.searchsorted(file["sample"][:], index)
        complete = not len(np.asarray(again)) and all(
            (group["state"][:][rows] != State.ABSENT).all() for group in groups
        )
        marks = {"complete": np.uint8(complete)} | ({"stopped": stopped} if stopped else {})
        _write(file, Path(out), read_config(file), index, len(index), np.asarray(again, np.int64), marks)


def _write(
    file: h5py.File,
    target: Path,
    config: Mapping[str, Any],
    index: NDArray[np.int64],
    planned: int,
    again: ArrayLike = (),
    marks: Mapping[str, Any] | None = None,
    *,
    new: bool = False,
) -> None:
    """Write a file of some samples ``(N,)`` of an open one, without values of those that are to be done again."""
    layout, there = read_layout(file), file["sample"][:]
    methods = [read_method(file, name) for name in method_names(file)]
    origin = build.Origin(json.loads(file.attrs["versions"]), planned, read_pictures(file), str(file.attrs["created"]))
    with written_whole(target, new=new) as part, as_output_error(target, new=new):
        with build.new_file(part) as made, writing(made) as held:
            size = build.allocated_bytes(build.fields_of(layout, methods), layout, len(index))
            share = Path(file.filename).stat().st_size * len(index) // max(1, len(there))
            reserve(made, target, size + share)
            build.create(made, config, layout, index, origin, held)
            for method in methods:
                build.add_method(made, method, layout, held)
            kept = np.isin(there, index) & ~np.isin(there, again)
            copy_rows([(file, np.where(kept, np.searchsorted(index, there), -1))], made)
            made.attrs.update(marks or {})
        trim(part, target, new=new)
        seal(part)
