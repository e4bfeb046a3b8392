"""Making the groups, scales and data sets of a file, as `relprop.store.schema` says."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.store.config import canonical_json, config_sha256
from relprop.store.hdf5.compression import filters
from relprop.store.hdf5.data_sets import dtype_of
from relprop.store.layout import Layout, Method, map_fields, method_fields, sample_fields
from relprop.store.schema import DIMENSIONS, FORMAT, FORMAT_VERSION, ORDERS, SLOTS, STATES, Field
from relprop.store.writing.rows import spelled

STREAM_ROWS = 16
"""Rows of a stream that begins. A copy with twice as many takes the file's place where they are full."""
EMPTY_CHUNK = 512
"""Bytes of a chunk that is compressed and empty, and of its entries in the index, beside 1/64 of its full size."""
DESCRIPTION = 1 << 13
"""Bytes of what describes a data set."""


@dataclass(frozen=True)
class Origin:
    """What the attributes of the root say of where a file comes from, beside the configuration.

    Parameters
    ----------
    versions : mapping
        Of the software, by name.
    planned : int, optional
        How many samples the whole run has.
    pictures : Path, optional
        The folder of the pictures.
    created : str
        When it was begun, ISO 8601; now where empty.
    """

    versions: Mapping[str, str]
    planned: int | None = None
    pictures: Path | None = None
    created: str = ""


def new_file(path: Path) -> h5py.File:
    """Make an HDF5 file that never uses space again: what a torn entry refers to is nobody else's.

    Whoever calls it has locked the file.
    """
    return h5py.File(path, "w", fs_strategy="none", locking=False)


def create(
    file: h5py.File,
    config: Mapping[str, Any],
    layout: Layout,
    index: ArrayLike,
    origin: Origin,
    held: list[h5py.Dataset],
) -> None:
    """Lay out an empty file for samples with these indices in the data set, ``(N,)``, ascending.

    The data sets that are made are added to ``held``, see `relprop.store.hdf5.handles`.
    """
    text = canonical_json(config)
    file.attrs.update(
        {
            "format": FORMAT,
            "format_version": np.int32(FORMAT_VERSION),
            "config": text,
            "config_sha256": config_sha256(text),
            "versions": json.dumps(dict(origin.versions), sort_keys=True),
            "created": origin.created or datetime.now(UTC).isoformat(timespec="seconds"),
            "complete": np.uint8(0),
        }
    )
    if origin.planned is not None:
        file.attrs["taken"] = np.int64(origin.planned)
    if origin.pictures is not None:
        file.attrs["pictures"] = spelled(os.path.abspath(origin.pictures)).decode()
    scales = _scale_values(layout, np.asarray(index, np.int64))
    for dimension in DIMENSIONS:
        values = scales[dimension.name]
        dtype = h5py.string_dtype() if values.dtype == object else values.dtype
        scale = file.create_dataset(dimension.name, data=values, dtype=dtype)
        held.append(scale)
        scale.make_scale(dimension.name)
        scale.attrs.update({"long_name": dimension.long_name, "units": "1"})
    samples = file.create_group("samples")
    held += _add_fields(file, samples, sample_fields(layout), layout)
    samples["index"][:] = scales["sample"]
    file.create_group("methods")


def add_method(file: h5py.File, method: Method, layout: Layout, held: list[h5py.Dataset]) -> None:
    """Lay out the group of a method; its data sets are added to ``held``."""
    group = file["methods"].create_group(method.name)
    text = canonical_json(method.config)
    group.attrs.update({"config": text, "config_sha256": config_sha256(text), "description": method.description})
    held += _add_fields(file, group, method_fields(method, layout), layout)
    if method.maps is not None:
        held += _add_fields(file, group.create_group("maps"), map_fields(method), layout)


def fields_of(layout: Layout, methods: Iterable[Method], *, samples: bool = True) -> Iterator[Field]:
    """Yield the fields of methods, and of ``samples``."""
    if samples:
        yield from sample_fields(layout)
    for method in methods:
        yield from (*method_fields(method), *map_fields(method))


def allocated_bytes(fields: Iterable[Field], layout: Layout, rows: int) -> int:
    """Return the size, generously, of what is allocated for so many more rows: one of compressed chunks is empty."""
    sizes = {name: len(values) for name, values in _scale_values(layout, np.zeros(1, np.int64)).items()}
    total = 0
    for field in fields:
        each = math.prod(sizes[name] for name in field.dims) * dtype_of(field, layout).itemsize
        if field.large:
            total += rows * (EMPTY_CHUNK + (each // 64 if layout.compression else each))
        else:
            total += each * rows
        total += DESCRIPTION
    return total


def _scale_values(layout: Layout, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the values of each dimension scale, by its name; ``sample`` has the indices ``(N,)``."""
    height, width = layout.size
    names = np.array(layout.class_names, object) if layout.class_names else np.arange(layout.classes, dtype=np.int32)
    return {
        "sample": index,
        "order": np.array(ORDERS, object),
        "masking_state": np.arange(STATES, dtype=np.uint8),
        "masked_state": np.arange(1, STATES, dtype=np.uint8),
        "y": np.arange(height, dtype=np.int32),
        "x": np.arange(width, dtype=np.int32),
        "slot": np.array(SLOTS, object),
        "class": names,
        "channel": np.arange(layout.channels, dtype=np.int32),
    }


def _add_fields(file: h5py.File, group: h5py.Group, fields: Iterable[Field], layout: Layout) -> list[h5py.Dataset]:
    made = []
    for field in fields:
        data = _add_field(file, group, field, layout)
        # What attaching a scale does, without the list of data sets that the scale would keep: a method that is added
        # must not change the header of sample, which a kill in the middle would spoil for all.
        scales = np.empty(len(field.dims), object)
        for axis, name in enumerate(field.dims):
            scales[axis] = np.array([file[name].ref], h5py.ref_dtype)
            if name not in group:
                group[name] = file[name]
        data.attrs.create("DIMENSION_LIST", scales, dtype=h5py.vlen_dtype(h5py.ref_dtype))
        made.append(data)
    return made


def _add_field(file: h5py.File, group: h5py.Group, field: Field, layout: Layout) -> h5py.Dataset:
    shape = tuple(len(file[name]) for name in field.dims)
    storage: dict[str, Any] = {}
    if field.large:
        storage = {"chunks": (1, *shape[1:]), **filters(layout)}
        if not shape[0]:  # of a shard without samples: HDF5 has no larger chunk than a data set can become
            storage["maxshape"] = (None, *shape[1:])
    dtype = dtype_of(field, layout)
    data = group.create_dataset(field.name, shape, dtype, fillvalue=_fill(field, dtype), dcpl=_early(), **storage)
    data.attrs.update(_attributes(field, dtype))
    return data


def _fill(field: Field, dtype: np.dtype[Any]) -> float | None:
    if field.dtype in ("str", "float16"):  # the netCDF library crashes on a float16 that has one; scale says the same
        return None
    return np.nan if dtype.kind == "f" else field.fill


def _attributes(field: Field, dtype: np.dtype[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"long_name": field.long_name, "units": field.units}
    if field.valid_range is not None:
        found["valid_range"] = np.array(field.valid_range, dtype)
    if field.direction is not None:
        found["direction"] = field.direction
    if field.meanings is not None:  # as the CF conventions spell codes and bits
        found["flag_masks" if field.bits else "flag_values"] = np.array(list(field.meanings.values()), dtype)
        found["flag_meanings"] = " ".join(field.meanings)
    return found


def _early() -> h5py.h5p.PropDCID:
    """Return properties by which storage is allocated at once, so that rows written later move nothing."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return properties
