"""Joining the shards of one evaluation into the file that the run without shards would have written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.errors import RelpropWarning
from relprop.files import OutputError, written_whole
from relprop.store.config import differences, format_differences
from relprop.store.description import (
    is_complete,
    method_names,
    read_config,
    read_layout,
    read_method,
    read_pictures,
    read_planned,
)
from relprop.store.errors import MergeError
from relprop.store.hdf5.disk_space import reserve, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import as_output_error, lock_to_replace
from relprop.store.hdf5.seal import seal
from relprop.store.layout import Layout, Method
from relprop.store.reading import open_evaluation
from relprop.store.writing import build
from relprop.store.writing.extending import copy_rows


def merge(paths: Sequence[str | PathLike[str]], out: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Join the complete shards of one evaluation into one file, written whole or not at all.

    Every data set is equal to that of the run that was not cut (but ``seconds``), and so is ``config``.

    Parameters
    ----------
    paths : sequence of path
        The files of all shards, in any order.
    out : path
        The file to write.
    overwrite : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    MergeError
        If a shard is incomplete, missing or given twice, or they differ in configuration, layout or methods.
    OutputError
        If ``out`` is there already, is one of the shards, or can't be written.
    MissingFileError, BusyError, FormatError, MissingExtraError
        If a shard can't be read.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: pass <overwrite> or another name", overwrite="True")
    with ExitStack() as stack:
        there = out.exists()
        if there:  # held until another one is in its place
            stack.enter_context(lock_to_replace(out))
        if out.resolve() in (Path(path).resolve() for path in paths):
            raise OutputError(f"{out} is one of the shards, which the merged file would replace: choose another name")
        shards = [stack.enter_context(open_evaluation(path)) for path in paths]
        shards = _in_order(shards)
        index = _all_samples(shards)
        part = stack.enter_context(written_whole(out, new=not there))
        with as_output_error(out, new=True), build.new_file(part) as file, writing(file) as held:
            layout, methods = read_layout(shards[0]), [read_method(shards[0], name) for name in method_names(shards[0])]
            empty = build.allocated_bytes(build.fields_of(layout, methods), layout, len(index))
            reserve(file, out, empty + sum(Path(shard.filename).stat().st_size for shard in shards), new=True)
            _lay_out(file, shards, index, held)
            copy_rows([(shard, np.searchsorted(index, shard["sample"][:])) for shard in shards], file)
            file.attrs.modify("complete", np.uint8(1))
        with as_output_error(out, new=True):
            trim(part, out, new=True)
            seal(part)


def _in_order(shards: list[h5py.File]) -> list[h5py.File]:
    """Return complete shards of one run in their order; refuse whatever else."""
    if not shards:
        raise MergeError("there are no shards to merge")
    for shard in shards:
        if not is_complete(shard):
            raise MergeError(f"{shard.filename} is not complete: resume it first")
    first = shards[0]
    described, methods = (read_config(first), read_layout(first)), _methods(first)
    for shard in shards[1:]:
        refuse_other_run(first.filename, shard.filename, described, (read_config(shard), read_layout(shard)))
        _refuse_other_methods(first.filename, shard.filename, methods, _methods(shard))
    places: dict[int, h5py.File] = {}
    for shard in shards:
        place, _ = read_config(shard)["shard"]
        if place in places:
            raise MergeError(f"{places[place].filename} and {shard.filename} are both shard {place}")
        places[place] = shard
    count = read_config(first)["shard"][1]
    missing = sorted(set(range(count)) - set(places))
    if missing:
        raise MergeError(f"of {count} shards these are missing: {', '.join(map(str, missing))}")
    return [places[place] for place in range(count)]


def refuse_other_run(
    here: str, there: str, first: tuple[Mapping[str, Any], Layout], shard: tuple[Mapping[str, Any], Layout]
) -> None:
    """Refuse a shard that is not of the same run, by the configurations and layouts of both, whatever its methods are.

    Raises
    ------
    MergeError
        It says what differs.
    """
    found = differences(_shared(first[0]), _shared(shard[0]))
    if found:
        raise MergeError(
            f"shards of different configurations: {format_differences(found, f'in {here}', f'in {there}')}"
        )
    if first[1] != shard[1]:
        raise MergeError(f"{here} and {there} differ in layout: {first[1]} and {shard[1]}")


def _methods(file: h5py.File) -> dict[str, Method]:
    return {name: read_method(file, name) for name in method_names(file)}


def _refuse_other_methods(here: str, there: str, mine: Mapping[str, Method], theirs: Mapping[str, Method]) -> None:
    """Refuse a shard that has not the same methods."""
    if mine.keys() != theirs.keys():
        words = ", ".join(sorted(mine.keys() ^ theirs.keys()))
        raise MergeError(f"{here} and {there} do not both have the methods {words}")
    for name, one in sorted(mine.items()):
        other = theirs[name]
        found = differences(one.config, other.config)
        if found:
            words = format_differences(found, f"in {here}", f"in {there}")
            raise MergeError(f"method {name!r} is not the same in all shards: {words}")
        if (one.maps, one.metrics) != (other.maps, other.metrics):
            raise MergeError(f"method {name!r} has other maps or metrics in {there} than in {here}")


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without the shard's own number."""
    return {**config, "shard": config["shard"][1]}


def _all_samples(shards: list[h5py.File]) -> NDArray[np.int64]:
    """Return the indices of all shards, ``(N,)``, ascending; refuse gaps and overlaps."""
    index: NDArray[np.int64] = np.sort(np.concatenate([shard["sample"][:] for shard in shards]))
    twice = np.unique(index[1:][np.diff(index) == 0])
    if len(twice):
        raise MergeError(f"{len(twice)} samples are in two shards, the first with index {twice[0]}")
    planned = {shard.filename: read_planned(shard) for shard in shards}
    if len(set(planned.values())) > 1:
        words = ", ".join(f"{count} in {name}" for name, count in planned.items())
        raise MergeError(f"shards of runs of different lengths, {words}: extend the shorter ones (resume with a limit)")
    total, many = read_config(shards[0])["samples"], next(iter(planned.values()))
    if many is not None and many != total:  # the first of an order that is not known here
        if len(index) != many:
            raise MergeError(f"the shards have {len(index)} samples, and the run {many}")
        return index
    wanted = np.arange(len(index) if total is None else total)
    missing = np.setdiff1d(wanted, index)
    if len(missing):
        raise MergeError(f"{len(missing)} samples are in no shard, the first with index {missing[0]}")
    if len(index) > len(wanted):
        raise MergeError(f"the shards have {len(index)} samples, and the data set {len(wanted)}")
    return index


def _lay_out(file: h5py.File, shards: list[h5py.File], index: NDArray[np.int64], held: list[h5py.Dataset]) -> None:
    first = shards[0]
    layout = read_layout(first)
    config = {**read_config(first), "shard": [0, 1]}
    origin = build.Origin(_all_versions(shards), read_planned(first), read_pictures(first))
    build.create(file, config, layout, index, origin, held)
    for name in method_names(first):
        build.add_method(file, read_method(first, name), layout, held)


def _all_versions(shards: list[h5py.File]) -> dict[str, str]:
    """Return the versions of the software; where shards differ, all of them.

    Kernels on other numbers of threads add in another order, which is said.
    """
    found = join_versions([shard.attrs["versions"] for shard in shards])
    if len(threads := found.get("threads", [])) > 1:
        warnings.warn(
            f"shards were computed with {' and '.join(threads)} threads: scores agree with those of one run up to "
            "rounding, not bit for bit",
            RelpropWarning,
            stacklevel=4,
        )
    return {name: ", ".join(versions) for name, versions in found.items()}


def join_versions(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the versions of the software by name, each once, of the attributes ``versions`` of shards."""
    found: dict[str, list[str]] = {}
    for text in texts:
        for name, version in json.loads(text).items():
            found.setdefault(name, [])
            if version not in found[name]:
                found[name].append(version)
    return found
