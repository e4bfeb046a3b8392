"""Data sets of an open file: their own scales and types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from relprop.store.layout import Layout, numpy_type
from relprop.store.schema import Field


def data_sets_without_scales(group: h5py.Group | Mapping[str, Any]) -> dict[str, h5py.Dataset]:
    """Return the data sets of a group that are not scales."""
    return {name: item for name, item in group.items() if isinstance(item, h5py.Dataset) and not item.is_scale}


def dtype_of(field: Field, layout: Layout) -> np.dtype[Any]:
    """Return the type of a field in a file."""
    kind = numpy_type(field, layout)
    return np.dtype(h5py.string_dtype("utf-8", field.length) if kind == "str" else kind)
