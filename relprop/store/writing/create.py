"""Making a file, or a copy of one with further methods: whole in its place, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from relprop.files import OutputError, discard_part, replacement
from relprop.files.locking import Lock
from relprop.store.damage import refuse_damaged
from relprop.store.description import check_identity, method_names, read_layout, read_method
from relprop.store.errors import StoreError
from relprop.store.hdf5.disk_space import reserve, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import as_output_error, lock_to_replace, lock_to_write, open_hdf5, repair_file_end
from relprop.store.hdf5.seal import unseal
from relprop.store.layout import Extent, Layout, Method
from relprop.store.reading import open_evaluation
from relprop.store.writing import build
from relprop.store.writing.build import Origin
from relprop.store.writing.checks import (
    check_config,
    check_index,
    check_layout,
    check_methods,
    refuse_other_config,
    refuse_other_method,
)
from relprop.store.writing.extending import extended, is_to_grow


def create_file(
    path: Path,
    config: Mapping[str, Any],
    layout: Layout,
    index: ArrayLike,
    methods: Iterable[Method],
    origin: Origin,
    overwrite: bool,
) -> Lock:
    """Lay out a file without rows that are done; until it is whole there is none at the path. Return its lock.

    Parameters and errors are those of `relprop.store.EvaluationWriter.create`.
    """
    rows = check_index(index)
    check_layout(layout)
    check_config(config)
    if config["samples"] is None:
        if len(rows):
            raise StoreError("samples of a stream are counted as they come: leave <index> out, and call extend")
        rows = np.arange(build.STREAM_ROWS)
    chosen = check_methods(methods)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file in it")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: pass <resume> or <overwrite>", resume="True", overwrite="True")
    if not path.parent.exists():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    with ExitStack() as stack:
        there = path.exists()
        if there:  # held until another one is in its place
            stack.enter_context(lock_to_replace(path))
        part, lock = stack.enter_context(replacement(path, new=not there))
        with as_output_error(path, new=True), build.new_file(part) as file, writing(file) as held:
            size = build.allocated_bytes(build.fields_of(layout, chosen), layout, len(rows))
            reserve(file, path, size, new=True)
            build.create(file, config, layout, rows, _with_planned(origin, config, len(rows)), held)
            for method in chosen:
                build.add_method(file, method, layout, held)
        trim(part, path, new=True)
    return lock


def reopen_file(
    path: Path, config: Mapping[str, Any], layout: Layout, methods: Iterable[Method], extent: Extent | None
) -> Lock:
    """Make a file ready to be continued: see that it is the one meant, and has these methods. Return its lock.

    Parameters and errors are those of `relprop.store.EvaluationWriter.resume`.
    """
    chosen = check_methods(methods)
    lock = lock_to_write(path)
    try:
        discard_part(path)
        with open_hdf5(path, "r", lock) as file:
            check_identity(file)
        repair_file_end(path)
        with open_evaluation(path, lock) as file:
            refuse_damaged(path, file)
            refuse_other_config(file, config, layout)
            there = method_names(file)
            added = [method for method in chosen if method.name not in there]
            for method in chosen:
                if method.name in there:
                    refuse_other_method(path, read_method(file, method.name), method)
            kept, rows = read_layout(file), len(file["sample"])
            grows = extent is not None and is_to_grow(file, extent)
        if extent is not None and grows:
            with lock:  # until the copy is in its place
                return extended(path, lock, np.asarray(extent.index, np.int64), extent.planned, added)
        if not added:
            return lock
        size = build.allocated_bytes(build.fields_of(kept, added, samples=False), kept, rows)
        with lock:  # until the copy is in its place
            return _add(path, added, size)
    except BaseException:
        lock.release()
        raise


def _add(path: Path, methods: Iterable[Method], size: int) -> Lock:
    """Add methods in a copy that takes the file's place when it is whole: a kill in between leaves the old one.

    Whoever calls it has locked the file; the lock that is returned is the copy's.
    """
    _require_room(path, path.stat().st_size + size)
    with replacement(path) as (part, lock):
        shutil.copyfile(path, part)
        shutil.copymode(path, part)
        unseal(part)
        with as_output_error(path), open_hdf5(part, "r+", lock) as file, writing(file) as held:
            reserve(file, path, size)
            layout = read_layout(file)
            file.attrs.modify("complete", np.uint8(0))
            for method in methods:
                build.add_method(file, method, layout, held)
        trim(part, path)
    return lock


def _with_planned(origin: Origin, config: Mapping[str, Any], rows: int) -> Origin:
    """Say how many samples a run has of which nobody said it: a shard's is not cut, a stream has no such number."""
    if origin.planned is not None or config["samples"] is None:
        return origin
    return replace(origin, planned=rows if tuple(config["shard"]) == (0, 1) else config["samples"])


def _require_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OutputError(
            f"cannot add methods to {path}: they are added to a copy, which needs {size / 1e6:.1f} MB beside it, and "
            f"{free / 1e6:.1f} MB are free. The file is as it was: make room, or begin another file for these methods"
        )
