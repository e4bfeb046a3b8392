"""A selection of the samples and methods of a file."""

from __future__ import annotations

import copy
import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.analysis.reading import Rows, read_rows
from relprop.analysis.records import AnalysisError, Samples, UnknownMethodError
from relprop.errors import near_names
from relprop.printed import Printed, Table
from relprop.store import State, is_complete, method_names, open_run, read_config, read_pictures, read_planned


class Selection(Printed):
    """Samples and methods of an open file, see `relprop.Results`."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._file, self._snapshot = open_run(self.path)
        self._rows = np.arange(len(self._file["sample"]), dtype=np.int64)
        self.methods: tuple[str, ...] = method_names(self._file)
        """Names of the methods selected."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._rows)

    def _blocks(self) -> list[str | Table]:
        if not self._file:
            return [f"Results({str(self.path)!r}), closed"]
        head = f"Results({str(self.path)!r}): {state_in_words(self.evaluated, self.planned, self.complete)}"
        rows = []
        for name in self.methods:
            counts = np.bincount(self.state(name), minlength=len(State))
            maps = "yes" if self.has_maps(name) else "no"
            rows.append([name, *(str(counts[state]) for state in (State.DONE, State.FAILED, State.ABSENT)), maps])
        return [head, Table(["method", "done", "failed", "absent", "maps"], rows)]

    @property
    def complete(self) -> bool:
        """Whether every sample of the run is done or failed, under every method."""
        return is_complete(self._open)

    @property
    def evaluated(self) -> int:
        """How many of the samples selected are done or failed, under each method selected."""
        states = [read_rows(self._open["samples/state"], self._rows), *map(self.state, self.methods)]
        return int((np.stack(states) != State.ABSENT).all(0).sum())

    @property
    def planned(self) -> int:
        """How many samples the run has, where all that there are yet are selected; else how many are selected."""
        whole = read_planned(self._open)
        if whole is None or len(self) < len(self._open["sample"]) or self.config.get("shard") != [0, 1]:
            return len(self)
        return whole

    @property
    def config(self) -> dict[str, Any]:
        """What the scores depend on: model, data set, protocol, seed."""
        return read_config(self._open)

    @property
    def pictures_folder(self) -> Path | None:
        """The folder that the pictures came from, as the file says: look into it only where its maker is trusted."""
        return read_pictures(self._open)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the software that the run was made with, by name."""
        found = json.loads(self._open.attrs["versions"])
        return {str(name): str(version) for name, version in found.items()}

    @property
    def created(self) -> str:
        """When the file was made: ISO 8601, with time zone."""
        return str(self._open.attrs["created"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the model's classes, or their numbers."""
        names = self._open["class"]
        return tuple(map(str, names.asstr()[:] if h5py.check_string_dtype(names.dtype) else names[:]))

    @property
    def samples(self) -> Samples:
        """Indices, names, classes, states and mosaics of the samples."""
        group = self._open["samples"]
        names = Samples.__dataclass_fields__
        return Samples(**{name: read_rows(group[name], self._rows) for name in names})

    def method_config(self, method: str | None = None) -> Mapping[str, Any]:
        """Return what a method's maps depend on."""
        return read_config(self._group(method))

    def description(self, method: str | None = None) -> str:
        """Describe a method in words."""
        return str(self._group(method).attrs["description"])

    def is_control(self, method: str | None = None) -> bool:
        """Say whether a method tells what chance reaches: it knows nothing of the model."""
        return bool(self.method_config(method).get("control"))

    def has_maps(self, method: str | None = None) -> bool:
        """Say whether the relevance maps of a method were kept."""
        return "maps" in self._group(method)

    def state(self, method: str | None = None) -> NDArray[np.uint8]:
        """Return the state of each sample, ``(N,)``: 0 absent, 1 done, 2 failed."""
        return read_rows(self._group(method)["state"], self._rows)

    def __getitem__(self, key: str | Sequence[str] | int | slice | ArrayLike) -> Self:
        """Select methods by name, or samples by place: an index, a slice, many indices, or a truth value for each."""
        if isinstance(key, str):
            return self.select(methods=[key])
        if isinstance(key, list | tuple) and key and all(isinstance(name, str) for name in key):
            return self.select(methods=key)
        if isinstance(key, slice):
            return self._view(self._rows[key], self.methods)
        wanted = np.atleast_1d(np.asarray(key))
        if wanted.dtype == bool and wanted.shape != (len(self),):
            raise AnalysisError(f"{wanted.shape} truth values do not select from {len(self)} samples")
        if wanted.ndim != 1 or (wanted.dtype.kind not in "biu" and wanted.size):
            raise AnalysisError(f"samples are selected by integers, slices or truth values, not {key!r}")
        return self._view(self._rows[wanted if wanted.size else []], self.methods)

    def select(
        self,
        methods: str | Iterable[str] | None = None,
        samples: Iterable[int] | None = None,
        state: Literal["done", "failed", "absent"] | None = None,
    ) -> Self:
        """Select methods and samples.

        Parameters
        ----------
        methods : str or iterable of str, optional
            Names, without their options too, or patterns such as ``"absLRP*"``.
        samples : iterable of int, optional
            Indices in the data set, in the order wanted.
        state : {"done", "failed", "absent"}, optional
            Samples that are done under all methods selected, or failed or are absent under one of them.

        Raises
        ------
        UnknownMethodError, AnalysisError
            If there is no such method, or sample.
        """
        chosen = self.methods if methods is None else self._find([methods] if isinstance(methods, str) else methods)
        rows = self._rows
        if samples is not None:
            place = {int(index): row for index, row in zip(self.samples.index, self._rows, strict=True)}
            wanted = [int(sample) for sample in samples]
            if missing := [sample for sample in wanted if sample not in place]:
                raise AnalysisError(f"there is no sample {missing[0]} among the {len(self)} selected of {self.path}")
            rows = np.array([place[sample] for sample in wanted], np.int64)
        found = self._view(rows, chosen)
        if state is None:
            return found
        code = {choice.name.lower(): choice for choice in State}.get(state)
        if code is None:
            raise AnalysisError(f"state is done, failed or absent, not {state!r}")
        states = [found.samples.state, *(found.state(name) for name in found.methods)]
        matches = np.stack([of_one == code for of_one in states])
        return found[matches.all(0) if code == State.DONE else matches.any(0)]

    @property
    def _open(self) -> h5py.File:
        if not self._file:
            raise AnalysisError(f"{self.path} was closed: ask while it is open, or open it again")
        return self._file

    def _read(self, data: h5py.Dataset) -> NDArray[Any]:
        """Read the rows selected of a data set that may be large, ``(N, ...)``."""
        if self._snapshot is not None and data.chunks is not None:
            return self._snapshot.read(data, self._rows)
        return read_rows(data, self._rows)

    def _view(self, rows: Rows, methods: Iterable[str]) -> Self:
        found = copy.copy(self)
        found._rows, found.methods = rows, tuple(methods)
        return found

    def method_named(self, name: str) -> str:
        """Return the method of the file that a name stands for, where its options may be left out.

        Raises
        ------
        UnknownMethodError
            If there is none, or several are called so.
        """
        found = self._find([name])
        if len(found) > 1:
            raise UnknownMethodError(f"{self.path} has several methods {name!r}, say which: {', '.join(found)}")
        return found[0]

    def _find(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the methods that names or patterns stand for, none twice."""
        found: dict[str, None] = {}
        for name in names:
            matching = self._named(name)
            if not matching:
                near = near_names(name, self.methods) or f"; there are {', '.join(self.methods) or 'none'}"
                raise UnknownMethodError(f"{self.path} has no method {name!r}{near}")
            found |= dict.fromkeys(matching)
        return tuple(found)

    def _named(self, name: str) -> list[str]:
        """Return the methods that one name stands for: as `relprop.evaluate` took it, a pattern, or without options."""
        stored = name.replace("/", "|")
        if stored in self.methods:
            return [stored]
        found = fnmatch.filter(self.methods, stored)
        return found or [method for method in self.methods if method.partition(":")[0] == stored]

    def _group(self, method: str | None) -> h5py.Group:
        if method is None:
            if len(self.methods) != 1:
                raise AnalysisError(f"say which method: {', '.join(self.methods) or 'there is none'}")
            (method,) = self.methods
        elif method not in self.methods:
            method = self.method_named(method)
        return self._open["methods"][method]


def state_in_words(evaluated: int, planned: int, complete: bool) -> str:
    """Say how far a run is."""
    return f"{planned} samples, complete" if complete else f"{evaluated} of {planned} samples, not complete"
