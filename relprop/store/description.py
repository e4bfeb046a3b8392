"""The description that a file holds of itself: its configurations, layout and methods."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relprop.store.errors import FormatError
from relprop.store.hdf5.compression import compression_of
from relprop.store.hdf5.data_sets import data_sets_without_scales
from relprop.store.hdf5.opening import open_hdf5
from relprop.store.layout import Layout, Method, Metric
from relprop.store.schema import FIRST_SEALED, FORMAT, FORMAT_VERSION, METHOD_FIELDS, State


def check_identity(file: h5py.File) -> None:
    """Refuse a file that is not one of an evaluation, or of a newer format version."""
    path = Path(file.filename)
    if file.attrs.get("format") != FORMAT:
        raise FormatError(f"{path} is HDF5, but not a file of an evaluation: its attribute format is not {FORMAT!r}")
    version = file.attrs.get("format_version")
    if not isinstance(version, int | np.integer) or version < 1:
        raise FormatError(f"{path} has no format_version, or a strange one: {version!r}")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format version {version}, and this relprop reads up to {FORMAT_VERSION}: install a newer one"
        )


def read_config(holder: h5py.File | h5py.Group) -> dict[str, Any]:
    """Return the configuration of a file, or of a method's group."""
    where = f"{holder.file.filename}: the configuration of {holder.name}"
    try:
        config = json.loads(holder.attrs["config"])
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{where} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise FormatError(f"{where} is no JSON object")
    return config


def read_format(path: str | PathLike[str]) -> int:
    """Return the format version of a file; errors are those of `open_evaluation`."""
    with open_hdf5(Path(path), "r") as file:
        check_identity(file)
        return int(file.attrs["format_version"])


def read_planned(file: h5py.File) -> int | None:
    """Return how many samples the whole run has, all shards together; None of streams, and of files of format 1."""
    return int(file.attrs["taken"]) if "taken" in file.attrs else None


def is_stream(file: h5py.File) -> bool:
    """Say whether a file is of a data set whose length was not known when the run began."""
    return read_config(file).get("samples", 0) is None


def rows_in_use(file: h5py.File) -> int:
    """Return how many rows belong to samples: before a stream has ended, there are spare ones behind them."""
    rows = len(file["sample"])
    if is_complete(file) or not is_stream(file):
        return rows
    used = np.flatnonzero(file["samples/state"][:] != State.ABSENT)
    return int(used[-1]) + 1 if len(used) else 0


def read_stopped(file: h5py.File) -> str:
    """Return the rule by which the run ended at its last sample; empty where none did."""
    return str(file.attrs.get("stopped", ""))


def read_pictures(file: h5py.File) -> Path | None:
    """Return the folder that the pictures came from, where it is known. Confirm it first: a file may say anything."""
    return Path(str(file.attrs["pictures"])) if "pictures" in file.attrs else None


def has_seal(file: h5py.File) -> bool:
    """Say whether files of this format version get a seal when they are closed, see `relprop.store.hdf5.seal`."""
    return bool(file.attrs["format_version"] >= FIRST_SEALED)


def is_complete(file: h5py.File) -> bool:
    """Say whether every sample is done or failed, under every method."""
    return bool(file.attrs["complete"])


def method_names(file: h5py.File) -> tuple[str, ...]:
    """Return the names of the methods, in alphabetical order."""
    return tuple(sorted(file["methods"]))


def read_layout(file: h5py.File) -> Layout:
    """Return sizes and storage of a file."""
    steps = file["samples/steps"]
    classes = file["class"]
    compression, level = compression_of(steps)
    return Layout(
        (len(file["y"]), len(file["x"])),
        len(classes),
        tuple(classes.asstr()[:]) if h5py.check_string_dtype(classes.dtype) else (),
        channels=len(file["channel"]) if "channel" in file else 3,
        elements=steps.ndim == 5,
        precision=file["samples/logit"].dtype.name,
        compression=compression,  # type: ignore[arg-type]
        level=level,
        name_length=file["samples/name"].dtype.itemsize,
    )


def read_method(file: h5py.File, name: str) -> Method:
    """Return what the group of a method says of it."""
    group = file["methods"][name]
    columns = {field.name for field in METHOD_FIELDS}
    metrics = [
        _read_metric(column, data)
        for column, data in data_sets_without_scales(group).items()
        if column not in columns and "direction" in data.attrs
    ]
    maps = {3: "summed", 4: "channels"}[group["maps/relevance"].ndim] if "maps" in group else None
    return Method(name, read_config(group), group.attrs["description"], tuple(metrics), maps)  # type: ignore[arg-type]


def _read_metric(name: str, data: h5py.Dataset) -> Metric:
    low, high = data.attrs["valid_range"]
    return Metric(name, data.attrs["long_name"], (float(low), float(high)), data.attrs["direction"])
