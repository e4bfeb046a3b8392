"""Cutting the file of a run into shards that can be continued each by itself: the inverse of `relprop.store.merge`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

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
from relprop.store.writing import build
from relprop.store.writing.extending import copy_rows


def split(path: str | PathLike[str], shards: Mapping[Path, tuple[int, ArrayLike]], parts: int) -> None:
    """Write shards of a run that was not cut, each whole or not at all. None of them is marked complete.

    Parameters
    ----------
    path : path
        The file of the run.
    shards : mapping
        From the path of each shard that shall be made to its number, and to the indices of its samples, ascending, all
        of which are in the file.
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
        config, layout, planned = read_config(file), read_layout(file), read_planned(file)
        if planned is None or config["shard"] != [0, 1]:
            what = "is a shard itself" if config["shard"] != [0, 1] else "is of a stream, or of format 1"
            raise StoreError(f"{path} {what}, and can't be cut into shards: continue it in one process")
        methods = [read_method(file, name) for name in method_names(file)]
        origin = build.Origin(
            json.loads(file.attrs["versions"]), planned, read_pictures(file), str(file.attrs["created"])
        )
        there = file["sample"][:]
        for target, (part, samples) in shards.items():
            index = np.asarray(samples, np.int64)
            with written_whole(target, new=True) as new, as_output_error(target, new=True):
                with build.new_file(new) as shard, writing(shard) as held:
                    size = build.allocated_bytes(build.fields_of(layout, methods), layout, len(index))
                    reserve(shard, target, size + Path(path).stat().st_size * len(index) // max(1, len(there)))
                    build.create(shard, {**config, "shard": [part, parts]}, layout, index, origin, held)
                    for method in methods:
                        build.add_method(shard, method, layout, held)
                    rows = np.where(np.isin(there, index), np.searchsorted(index, there), -1)
                    copy_rows(file, shard, rows)
                trim(new, target, new=True)
                seal(new)
