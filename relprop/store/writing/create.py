"""Files laid out, or laid out anew with further methods: whole in their place, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from relprop.files import OutputError, written_whole
from relprop.store.description import check_identity, method_names, read_layout, read_method
from relprop.store.hdf5.disk_space import reserve, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import check_free, open_hdf5, settle_end, telling_output_errors
from relprop.store.layout import Layout, Method
from relprop.store.reading import open_evaluation
from relprop.store.writing import build
from relprop.store.writing.checks import (
    check_config,
    check_index,
    check_layout,
    check_methods,
    refuse_other_config,
    refuse_other_method,
)


def begin(
    path: Path,
    config: Mapping[str, Any],
    layout: Layout,
    index: ArrayLike,
    methods: Iterable[Method],
    versions: Mapping[str, str],
    overwrite: bool,
) -> None:
    """Lay out a file without rows that are done; until it is whole there is none at the path.

    Parameters and errors are those of `relprop.store.EvaluationWriter.create`.
    """
    rows = check_index(index)
    check_layout(layout)
    check_config(config)
    chosen = check_methods(methods)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file in it")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already: resume it, or overwrite it")
    if not path.parent.exists():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    check_free(path)
    with written_whole(path) as part:
        with telling_output_errors(path, new=True), build.new_file(part) as file, writing(file) as held:
            size = build.allocated_bytes(build.fields_of(layout, chosen), layout, len(rows))
            reserve(file, path, size, new=True)
            build.create(file, config, layout, rows, versions, held)
            for method in chosen:
                build.add_method(file, method, layout, held)
        trim(part)


def take_up(path: Path, config: Mapping[str, Any], layout: Layout, methods: Iterable[Method]) -> None:
    """Make a file ready to be continued: see that it is the one meant, and has these methods.

    Parameters and errors are those of `relprop.store.EvaluationWriter.resume`.
    """
    chosen = check_methods(methods)
    check_free(path)
    with open_hdf5(path, "r") as file:
        check_identity(file)
    settle_end(path)
    with open_evaluation(path) as file:
        refuse_other_config(file, config, layout)
        there = method_names(file)
        added = [method for method in chosen if method.name not in there]
        for method in chosen:
            if method.name in there:
                refuse_other_method(path, read_method(file, method.name), method)
        kept, rows = read_layout(file), len(file["sample"])
    if added:
        _add(path, added, build.allocated_bytes(build.fields_of(kept, added, samples=False), kept, rows))


def _add(path: Path, methods: Iterable[Method], size: int) -> None:
    """Add methods in a copy that takes the file's place when it is whole: a kill in between leaves the old one."""
    with written_whole(path) as part:
        with open_hdf5(path, "r+"):  # nobody else writes to it while it is copied
            _require_room(path, path.stat().st_size + size)
            shutil.copyfile(path, part)
            shutil.copymode(path, part)
        with telling_output_errors(path), open_hdf5(part, "r+") as file, writing(file) as held:
            reserve(file, path, size)
            build.even_out(file)
            layout = read_layout(file)
            file.attrs.modify("complete", np.uint8(0))
            for method in methods:
                build.add_method(file, method, layout, held)
        trim(part)


def _require_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OutputError(
            f"cannot add methods to {path}: they are added to a copy, which needs {size / 1e6:.1f} MB beside it, and "
            f"{free / 1e6:.1f} MB are free. The file is as it was: make room, or begin another file for these methods"
        )
