"""The file of a shard: a tar as the library webdataset reads it, or HDF5."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relprop.cli.explaining.sharded.storage import Sample, Storage
from relprop.cli.explaining.sharded.working import add_members, samples_of
from relprop.files import written_whole
from relprop.store.hdf5.disk_space import reserve, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import as_output_error
from relprop.store.writing.rows import spelled

_END_OF_TAR = b"\0" * 10240
_COLUMNS: Mapping[str, tuple[Any, str]] = {
    "key": (h5py.string_dtype(), "name of the sample in the index"),
    "file": (h5py.string_dtype(), "the picture"),
    "target": (np.int32, "index of the class explained"),
    "probability": (np.float64, "of the class explained"),
    "scale": (np.float64, "what the map was divided by: relevance * scale is the map"),
    "about": (h5py.string_dtype(), "all that is told of the sample, as JSON"),
}


def write_shard(working: Path, path: Path, storage: Storage, attributes: Mapping[str, str]) -> None:
    """Write a shard, whole or not at all, from the file that it was collected in.

    Raises
    ------
    OutputError
        It can't be written.
    """
    if storage.format == "webdataset":
        _write_tar(working, path)
    else:
        _write_hdf5(working, path, attributes)


def _write_tar(working: Path, path: Path) -> None:
    with written_whole(path) as part, part.open("wb") as file:
        for sample in _done(working):
            add_members(file, sample)
        file.write(_END_OF_TAR)


def _write_hdf5(working: Path, path: Path, attributes: Mapping[str, str]) -> None:
    """Write an HDF5 file; room is taken before, so that HDF5 never meets a full disk."""
    shapes, size = Counter[tuple[int, ...]](), 0
    for sample in _done(working):
        shapes[sample.values.shape] += 1
        size += 2 * len(sample.content or b"") + 10 * len(json.dumps(sample.entry))
    with written_whole(path) as part, as_output_error(path, new=True):
        with h5py.File(part, "w", locking=False) as file, writing(file) as held:
            reserve(file, path, size, new=True)
            file.attrs.update(attributes)
            held += _add_maps(file, working, shapes)
            rows = [_row(sample) for sample in _done(working)]
            for name, (dtype, words) in _COLUMNS.items():
                held.append(file.create_dataset(name, data=[row[name] for row in rows], dtype=dtype))
                held[-1].attrs["description"] = words
        trim(part, path, new=True)


def _add_maps(file: h5py.File, working: Path, shapes: Counter[tuple[int, ...]]) -> list[h5py.Dataset]:
    """Add the maps as one data set, or where their sizes differ one for each; return what was made."""
    if len(shapes) == 1:
        shape = next(iter(shapes))
        maps: h5py.Dataset | None = None
        for row, sample in enumerate(_done(working)):
            if maps is None:
                maps = _add_map(file, "relevance", (shapes[shape], *shape), sample.values.dtype)
            maps[row] = sample.values
        return [maps]
    group, made = file.create_group("relevance"), []
    for sample in _done(working):
        made.append(_add_map(group, sample.key, sample.values.shape, sample.values.dtype))
        made[-1][...] = sample.values
    return made


def _add_map(place: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    chunks = (1, *shape[1:]) if place.name == "/" else shape
    return place.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True)


def _done(working: Path) -> Iterator[Sample]:
    return (sample for sample in samples_of(working) if sample.content is not None)


def _row(sample: Sample) -> dict[str, Any]:
    entry = sample.entry
    probability = np.nan if entry["probability"] is None else entry["probability"]
    known = {"file": spelled(entry["file"]), "target": entry["target"], "scale": entry["scale"]}
    return {"key": sample.key, **known, "probability": probability, "about": json.dumps(entry)}
