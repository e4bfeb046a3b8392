"""Validating a file against `relprop.store.schema`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import h5py
import numpy as np

from relprop.store.config import canonical_json, config_sha256
from relprop.store.description import check_identity, method_names, read_config, read_layout, read_method
from relprop.store.errors import FormatError
from relprop.store.hdf5.data_sets import data_sets_without_scales, dtype_of
from relprop.store.layout import Layout, map_fields, method_fields, numpy_type, sample_fields
from relprop.store.schema import DIMENSIONS, METHOD_ATTRIBUTES, ROOT_ATTRIBUTES, Field, State


def validate(file: h5py.File) -> None:
    """Check a file against the specification.

    Parameters
    ----------
    file : h5py.File
        Open for reading.

    Raises
    ------
    FormatError
        If it is not a file of an evaluation, or of a newer version; or it lists all that is wrong.
    """
    check_identity(file)
    check_skeleton(file)
    _refuse(file, list(_groups(file)))


def check_skeleton(file: h5py.File) -> None:
    """Check that a file has what is needed to understand the rest: attributes, scales, groups."""
    _refuse(file, list(_skeleton(file)))


def _refuse(file: h5py.File, wrong: list[str]) -> None:
    if wrong:
        raise FormatError(f"{file.filename} departs from the format in {len(wrong)} points: " + "; ".join(wrong))


def _skeleton(file: h5py.File) -> Iterator[str]:
    yield from (f"the root has no attribute {name}" for name in ROOT_ATTRIBUTES if name not in file.attrs)
    for dimension in DIMENSIONS:
        scale = file.get(dimension.name)
        if dimension.name == "channel" and scale is None:
            continue
        if not isinstance(scale, h5py.Dataset) or scale.ndim != 1 or not scale.is_scale:
            yield f"{dimension.name} is no dimension scale"
    for name in ("samples", "methods"):
        if not isinstance(file.get(name), h5py.Group):
            yield f"there is no group {name}"
    for name in ("samples/steps", "samples/logit", "samples/name"):  # which tell the layout
        if not isinstance(file.get(name), h5py.Dataset):
            yield f"there is no data set {name}"


def _groups(file: h5py.File) -> Iterator[str]:
    layout = read_layout(file)
    index = file["sample"][:]
    if index.dtype.kind not in "iu" or (np.diff(index) <= 0).any():
        yield "sample does not hold ascending indices"
    yield from _config(file, "the root")
    yield from _fields(file, file["samples"], sample_fields(layout), layout)
    if "index" in file["samples"] and not np.array_equal(file["samples/index"][:], index):
        yield "samples/index is not equal to sample"
    absent = _absent(file["samples"])
    for name in method_names(file):
        group = file["methods"][name]
        missing = [attribute for attribute in METHOD_ATTRIBUTES if attribute not in group.attrs]
        yield from (f"methods/{name} has no attribute {attribute}" for attribute in missing)
        if missing:
            continue
        yield from _config(group, f"methods/{name}")
        method = read_method(file, name)
        yield from _fields(file, group, method_fields(method), layout)
        if method.maps is not None:
            yield from _fields(file, group["maps"], map_fields(method), layout)
        absent += _absent(group)
    if file.attrs["complete"] and absent:
        yield f"complete is 1 and {absent} rows are absent"


def _absent(group: h5py.Group) -> int:
    return int((group["state"][:] == State.ABSENT).sum()) if "state" in group else 0


def _config(holder: h5py.Group, where: str) -> Iterator[str]:
    text = holder.attrs["config"]
    if config_sha256(text) != holder.attrs["config_sha256"]:
        yield f"config_sha256 of {where} is not that of its config"
    try:
        canonical = canonical_json(read_config(holder)) == text
    except FormatError:
        canonical = False
    if not canonical:
        yield f"config of {where} is not canonical JSON"


def _fields(file: h5py.File, group: h5py.Group, fields: Iterable[Field], layout: Layout) -> Iterator[str]:
    where = group.name.lstrip("/")
    described = {field.name: field for field in fields}
    for name, field in described.items():
        if isinstance(group.get(name), h5py.Dataset):
            yield from (f"{where}/{name} {wrong}" for wrong in _field(file, group, field, layout))
        else:
            yield f"there is no data set {where}/{name}"
    for name in set(data_sets_without_scales(group)) - set(described):
        if not {"long_name", "units"} <= set(group[name].attrs):
            yield f"{where}/{name} lacks long_name or units"
    if "state" in group and not np.isin(group["state"][:], list(State)).all():
        yield f"{where}/state has codes that stand for nothing"


def _field(file: h5py.File, group: h5py.Group, field: Field, layout: Layout) -> Iterator[str]:
    data, kind = group[field.name], numpy_type(field, layout)
    wanted_type = dtype_of(field, layout)
    if kind == "str":
        if h5py.check_string_dtype(data.dtype) != h5py.check_string_dtype(wanted_type):
            yield f"holds {data.dtype}, not strings of {field.length} bytes in UTF-8"
    elif data.dtype != wanted_type:
        yield f"holds {data.dtype}, not {kind}"
    shape = tuple(len(file[name]) for name in field.dims if name in file)
    if data.shape != shape:
        yield f"has shape {data.shape}, not {shape}"
        return
    for axis, name in enumerate(field.dims):
        if file[name] not in data.dims[axis].values():
            yield f"has no scale {name} at axis {axis}"
        if group.get(name) != file[name]:
            yield f"has no {name} beside it"
    wanted = ["long_name", "units"]
    wanted += ["valid_range"] * (field.valid_range is not None) + ["direction"] * (field.direction is not None)
    yield from (f"has no attribute {name}" for name in wanted if name not in data.attrs)
    if data.id.get_create_plist().get_alloc_time() != h5py.h5d.ALLOC_TIME_EARLY:
        yield "is not allocated as soon as its rows exist"
    if field.large and (data.chunks is None or data.chunks[0] != 1):
        yield "has not one sample in a chunk"
    if not field.large and data.id.get_create_plist().get_nfilters():
        yield "is compressed, or filtered otherwise"
