"""The rows of a file that is open to be written: which samples, and in which state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.errors import near_names
from relprop.store.description import method_names, read_layout, read_method, rows_in_use
from relprop.store.errors import StoreError
from relprop.store.layout import sample_fields
from relprop.store.schema import Field
from relprop.store.writing.rows import Rows, read_rows
from relprop.store.writing.writable_file import WritableFile


class OpenEvaluation:
    """A file and what is known of it: the half of `relprop.store.EvaluationWriter` that changes nothing."""

    def __init__(self, opened: WritableFile) -> None:
        self._opened = opened
        file = opened.file
        self._layout = read_layout(file)
        self._fields = by_name(sample_fields(self._layout))
        self._methods = {name: read_method(file, name) for name in method_names(file)}
        self._count = rows_in_use(file)

    @property
    def _path(self) -> Path:
        return self._opened.path

    @property
    def _file(self) -> h5py.File:
        return self._opened.file

    @property
    def index(self) -> NDArray[np.int64]:
        """Indices of the rows in the data set, ``(N,)``."""
        found: NDArray[np.int64] = self._file["sample"][: self._count]
        return found

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods in the file."""
        return tuple(self._methods)

    def maps_of(self, name: str) -> str | None:
        """Return which maps the file keeps of a method: None, ``"summed"`` or ``"channels"``."""
        self._group(name)
        return self._methods[name].maps

    def sample_states(self) -> NDArray[np.uint8]:
        """Return what became of each row of the masking run, ``(N,)``, as committed; see `State`."""
        return states_of(self._file["samples"], self._count)

    def method_states(self, name: str) -> NDArray[np.uint8]:
        """Return what became of each row under a method, ``(N,)``, as committed."""
        return states_of(self._group(name), self._count)

    def read_samples(self, rows: Rows, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return rows of ``samples``, ``(B, ...)`` by name, in the given order.

        A method that is added later needs the masking run.
        """
        return read_rows(self._file["samples"], rows, names, self._count)

    def read_method(self, name: str, rows: Rows, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return rows of a method, ``(B, ...)`` by name, in the given order."""
        return read_rows(self._group(name), rows, names, self._count)

    def _group(self, name: str) -> h5py.Group:
        if name not in self._methods:
            raise StoreError(f"{self._path} has no method {name!r}{near_names(name, self._methods)}")
        return self._file["methods"][name]


def states_of(group: h5py.Group, count: int) -> NDArray[np.uint8]:
    """Return what became of the first rows of a group, ``(count,)``."""
    states: NDArray[np.uint8] = group["state"][:count]
    return states


def by_name(fields: Iterable[Field]) -> dict[str, Field]:
    """Return fields by their names."""
    return {field.name: field for field in fields}
