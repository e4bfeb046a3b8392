"""A run opened for reading whatever state it is in: its file, what was committed of that, or its shards as one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from secrets import token_hex
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.store.committed import ATTEMPTS, PAUSE, Part, again, groups_of, read_part
from relprop.store.config import canonical_json, config_sha256
from relprop.store.description import is_complete
from relprop.store.errors import BusyError, DamageError, FormatError, MergeError
from relprop.store.hdf5.data_sets import data_sets_without_scales
from relprop.store.hdf5.opening import may_be_written, open_unlocked
from relprop.store.merge import join_versions, refuse_other_run
from relprop.store.reading import open_evaluation
from relprop.store.schema import State
from relprop.store.shards import run_file, shard_files, shard_folder

_SCALES = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST")
"""Attributes by which HDF5 ties data sets to their scales."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run as it was committed at one time.

    Parameters
    ----------
    file : h5py.File
        In memory, as the file of the run; what is large has no values there.
    parts : tuple of Part
        The files that it is of.
    """

    file: h5py.File
    parts: tuple[Part, ...]

    def read(self, data: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows ``(R,)`` of a data set of ``file``; of a large one those that are done, the others are empty.

        Raises
        ------
        BusyError
            The run has gone on, so that they are not there any more: it is to be opened again.
        """
        name = data.name.lstrip("/")
        found = np.full((len(rows), *data.shape[1:]), data.fillvalue, data.dtype)
        index = self.file["sample"][:][rows]
        for part in self.parts:
            state = part.columns.get(f"{name.rpartition('/')[0].removesuffix('/maps')}/state")
            places = np.flatnonzero(np.isin(index, part.index))
            here = np.searchsorted(part.index, index[places])
            done = np.zeros(len(here), bool) if state is None else state[here] == State.DONE
            if done.any():
                found[places[done]] = part.read_large(name, here[done])
        return found


def open_run(path: str | PathLike[str]) -> tuple[h5py.File, Snapshot | None]:
    """Open what there is of a run. Nobody who writes it is kept from anything.

    Parameters
    ----------
    path : path
        Of the file, or of the folder of its shards. A run that has such a folder beside its file is read from there.

    Returns
    -------
    tuple
        A file, which the caller closes; and what it is a snapshot of, where the run is not complete.

    Raises
    ------
    BusyError
        It can't be read at this moment.
    MissingFileError, FormatError, MissingExtraError, MergeError
        There is nothing to read, or the shards are not of one run.
    """
    path = Path(path)
    for _ in range(ATTEMPTS):
        shards = _shards_of(path)
        try:
            if shards:
                found = _take(shards, joined=True)
                return found.file, found
            return _open_file(_file_of(path))
        except FileNotFoundError:
            if not shards and not _shards_of(path):  # else they were joined and removed, or are there just now
                raise
        time.sleep(PAUSE)
    raise BusyError(f"{path} is being written, and can't be read at this moment: wait, and try again")


def _open_file(file: Path) -> tuple[h5py.File, Snapshot | None]:
    """Open a file; where the run is not complete without a lock, which would keep others from going on with it."""
    if not _is_unfinished(file) and not may_be_written(file):
        with suppress(BusyError):  # somebody may begin to write it at this moment
            return open_evaluation(file), None
    try:
        found = _take([file], joined=False)
    except (BusyError, DamageError):
        if may_be_written(file):
            raise
        return open_evaluation(file), None  # it is damaged, or of a stream
    return found.file, found


def _is_unfinished(file: Path) -> bool:
    """Say whether a file tells that its run is not complete."""
    try:
        opened, _ = open_unlocked(file)
        with opened:
            return not is_complete(opened)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # it is written, damaged or foreign
        return False


def _shards_of(path: Path) -> list[Path]:
    """Return the shards of a run that is written as shards, or was left so."""
    return shard_files(path if path.is_dir() else shard_folder(path))


def _file_of(path: Path) -> Path:
    """Return the file of a run that has no shards; there may have been some, which were joined.

    Raises
    ------
    BusyError, FormatError
        Nothing of the run is written yet; the folder is none of shards.
    """
    file = run_file(path)
    if file != path and file.is_file():
        return file
    if (shard_folder(path).is_dir() and not path.exists()) or (file != path and path.is_dir()):
        raise BusyError(f"nothing of the run {file} is written yet: wait, and try again")
    if path.is_dir():
        raise FormatError(f"{path} is a folder without shards of a run: name the file of an evaluation")
    return path


def _take(paths: Sequence[Path], *, joined: bool) -> Snapshot:
    """Read what was committed of a file, or of the shards of a run, ``joined``."""
    parts = tuple(read_part(path) for path in paths)
    first = parts[0]
    for part in parts[1:]:
        refuse_other_run(str(first.path), str(part.path), (first.config, first.layout), (part.config, part.layout))
    return Snapshot(again(first.path, lambda: _image(parts, joined)), parts)


def _image(parts: Sequence[Part], joined: bool) -> h5py.File:
    """Make the file of a run in memory, of what was committed of it."""
    index = np.sort(np.concatenate([part.index for part in parts]))
    if len(twice := index[1:][np.diff(index) == 0]):
        raise MergeError(f"{len(twice)} samples are in two shards, the first with index {twice[0]}")
    image = h5py.File(f"snapshot-{token_hex(8)}", "w", driver="core", backing_store=False, block_size=1 << 20)
    try:
        for part in parts:
            if any(name.rpartition("/")[0] not in image for name in part.columns):
                source, _ = open_unlocked(part.path, again=True)
                with source:
                    _lay_out(image, source, index)
        for group in groups_of(image):
            _fill(group, parts, index)
        if "samples/index" in image:  # of rows that are absent, too
            image["samples/index"][:] = index
        complete = all(part.complete for part in parts)
        if joined:
            text = canonical_json({**parts[0].config, "shard": [0, 1]})
            image.attrs.update({"config": text, "config_sha256": config_sha256(text)})
            image.attrs["versions"] = json.dumps(
                {k: ", ".join(v) for k, v in join_versions([part.versions for part in parts]).items()}
            )
            planned = {part.planned for part in parts if part.planned is not None}
            if planned:
                image.attrs["taken"] = np.int64(max(planned))
            complete = complete and len(parts) == parts[0].config["shard"][1] and len(planned) < 2
        image.attrs["complete"] = np.uint8(complete)
    except BaseException:
        image.close()
        raise
    return image


def _lay_out(image: h5py.File, source: h5py.File, index: NDArray[np.int64]) -> None:
    """Add what of a file is not there yet: attributes, scales, groups and empty data sets for samples ``(N,)``."""
    if "sample" not in image:
        _describe(image, source)
        for name, scale in source.items():
            if isinstance(scale, h5py.Dataset):
                values = index if name == "sample" else scale[:]
                _describe(image.create_dataset(name, data=values, dtype=scale.dtype), scale)
                image[name].make_scale(name)
    for group in groups_of(source):
        if group.name in image:
            continue
        _describe(image.require_group(group.name), group)
        for data in data_sets_without_scales(group).values():
            fill = data.fillvalue if data.dtype.kind in "biuf" else None
            shape, storage = (len(index), *data.shape[1:]), {}
            if data.chunks is not None:  # of a row, and perhaps there is none
                storage = {"chunks": (1, *shape[1:]), "maxshape": (None, *shape[1:])}
            made = image.create_dataset(data.name, shape, data.dtype, fillvalue=fill, **storage)
            _describe(made, data)
            for axis, scales in enumerate(data.dims):
                made.dims[axis].attach_scale(image[scales[0].name.rpartition("/")[2]])


def _describe(target: Any, source: Any) -> None:
    for name, value in source.attrs.items():
        if name not in _SCALES:
            target.attrs[name] = value


def _fill(group: h5py.Group, parts: Sequence[Part], index: NDArray[np.int64]) -> None:
    """Write the values of rows that are done or failed, of samples ``(N,)``; those of others stay empty."""
    where = group.name.lstrip("/")
    for name, data in data_sets_without_scales(group).items():
        if data.chunks is not None:
            continue
        values = data[:]
        for part in parts:
            column = part.columns.get(f"{where}/{name}")
            if column is not None:
                evaluated = part.evaluated(where.removesuffix("/maps"))
                values[np.searchsorted(index, part.index[evaluated])] = column[evaluated]
        data[...] = values
