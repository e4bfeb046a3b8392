"""The writer of a file: rows first, then the states that say that they are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.store.description import is_stream
from relprop.store.errors import StoreError
from relprop.store.hdf5.disk_space import reserve
from relprop.store.hdf5.handles import synchronize
from relprop.store.hdf5.opening import as_output_error
from relprop.store.layout import Extent, Layout, Method, map_fields, method_fields
from relprop.store.schema import State
from relprop.store.writing.build import Origin
from relprop.store.writing.checks import check_index
from relprop.store.writing.create import create_file, reopen_file
from relprop.store.writing.open_file import OpenEvaluation, by_name
from relprop.store.writing.rows import Batch, Rows, make_batch, scaled_maps, values_at
from relprop.store.writing.states import count_absent, make_absent, set_complete, store
from relprop.store.writing.writable_file import WritableFile


class EvaluationWriter(OpenEvaluation):
    """Writes one file, from one thread at a time; made by `create` or `resume`, and a context manager that closes it.

    What is written counts once `commit` has returned: then it is there, whatever becomes of the process. (Not of the
    machine: a power cut takes what the operating system had not yet put on the disk.) While the writer is open nobody
    else can open the file.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from relprop.store import EvaluationWriter, Layout, Method
    >>> config = {"model": "tiny", "seed": 0, "samples": 8, "shard": [0, 1]}
    >>> layout = Layout(size=(4, 4), classes=3)
    >>> folder = tempfile.TemporaryDirectory()
    >>> method = Method("constant", {"control": "constant"})
    >>> with EvaluationWriter.create(f"{folder.name}/run.h5", config, layout, range(8), methods=[method]) as writer:
    ...     scores = "faithfulness robustness unclipped local_consistency contrastiveness_raw contrastiveness gae"
    ...     writer.write_method("constant", slice(0, 4), {name: np.zeros(4) for name in scores.split()})
    ...     writer.write_method("constant", [5], {"state": [2], "message": ["out of memory"]})
    ...     writer.commit()
    >>> with EvaluationWriter.resume(f"{folder.name}/run.h5", config, layout) as writer:
    ...     print(writer.method_states("constant"))
    [1 1 1 1 0 2 0 0]
    >>> folder.cleanup()
    """

    def __init__(self, opened: WritableFile) -> None:
        super().__init__(opened)
        self._pending: list[tuple[h5py.Group, Batch]] = []  # rows whose states are still to be written

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        config: Mapping[str, Any],
        layout: Layout,
        index: ArrayLike = (),
        *,
        planned: int | None = None,
        methods: Iterable[Method] = (),
        versions: Mapping[str, str] | None = None,
        pictures: Path | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Begin a file; until it is laid out there is none at the path.

        Parameters
        ----------
        path : path
            Of the file.
        config : mapping
            What all methods share, see `relprop.store.schema`.
        layout : Layout
            Sizes and storage.
        index : array_like
            Indices of the samples in the data set, ``(N,)``, ascending; none for a stream, see `extend`.
        planned : int, optional
            How many samples the whole run has, all shards together; by default, of a run that is no stream, those of
            ``index`` or, of a shard, all of the data set.
        methods : iterable of Method
            Others can be added when it is resumed.
        versions : mapping
            Of the software, by name.
        pictures : Path, optional
            The folder that the pictures come from.
        overwrite : bool
            Whether a file that is there may be replaced.

        Raises
        ------
        OutputError
            If there is a file already, or none can be written.
        BusyError
            If the file that shall be replaced is open.
        ConfigurationError, StoreError
            If the configuration, a method or the index can't be kept.
        MissingExtraError
            If the compression needs a package that is not installed.
        """
        path = Path(path)
        origin = Origin(versions or {}, planned, pictures)
        return cls(WritableFile.open(path, create_file(path, config, layout, index, methods, origin, overwrite)))

    @classmethod
    def resume(
        cls,
        path: str | PathLike[str],
        config: Mapping[str, Any],
        layout: Layout,
        *,
        methods: Iterable[Method] = (),
        extent: Extent | None = None,
    ) -> Self:
        """Continue a file, complete or not: rows that are absent or failed can be written.

        Parameters
        ----------
        path : path
            Of the file.
        config, layout
            As it was begun with; compression and lengths of strings stay what they are.
        methods : iterable of Method
            Those not yet in the file are added, all in one copy of it, which then takes its place.
        extent : Extent, optional
            Which samples the run shall have: those that are in the file, and perhaps further ones, for which rows are
            made in such a copy.

        Raises
        ------
        ConfigurationError
            If it was begun with another configuration or layout, or has a method with another configuration, other
            metrics or without maps, naming what differs; or with more samples than it shall have.
        MissingFileError, BusyError, FormatError, OutputError, MissingExtraError
            If it can't be opened, or there is no room for the copy.
        """
        path = Path(path)
        return cls(WritableFile.open(path, reopen_file(path, config, layout, methods, extent)))

    def extend(self, index: ArrayLike) -> NDArray[np.int64]:
        """Add rows for further samples of a stream.

        Parameters
        ----------
        index : array_like
            Their indices, ``(M,)``, which follow those that are there: a stream is counted from 0.

        Returns
        -------
        ndarray
            Their rows, ``(M,)``.

        Raises
        ------
        StoreError
            If the file is of no stream, or the indices do not follow.
        OutputError
            If there is no room for a copy with more rows; what was committed is kept.
        """
        if not is_stream(self._file):
            raise StoreError(
                f"{self._path} was begun for {self._count} samples, not for a stream: it can't be extended"
            )
        old, added = self._count, check_index(index)
        if not np.array_equal(added, np.arange(old, old + len(added))):
            raise StoreError(f"samples of a stream are counted from 0: the next one is {old}, not {added[0]}")
        self.commit()
        self._set_complete(False)
        there = len(self._file["sample"])
        if old + len(added) > there:
            self._opened.resize(max(old + len(added), 2 * there))
        self._count += len(added)
        return np.arange(old, self._count)

    def write_samples(self, rows: Rows, arrays: Mapping[str, ArrayLike]) -> None:
        """Write rows of ``samples``.

        Parameters
        ----------
        rows : slice or array_like
            Which, in any order.
        arrays : mapping
            Values ``(B, ...)`` by names of `schema.SAMPLE_FIELDS`, or one for all. Without ``state`` they are done.

        Raises
        ------
        StoreError
            If names, shapes or types don't fit, or something is missing for rows that are done.
        OutputError
            If there is no room; what was committed is kept.
        """
        group = self._file["samples"]
        batch = make_batch(rows, arrays, self._fields, group, self._count)
        if "index" in batch.values and (batch.values["index"] != values_at(self._file["sample"], batch.rows)).any():
            raise StoreError("samples/index: the indices of rows are settled when they are made")
        if len(batch.rows):
            self._write(group, batch)

    def write_method(self, name: str, rows: Rows, arrays: Mapping[str, ArrayLike]) -> None:
        """Write rows of a method.

        Parameters
        ----------
        name : str
            Of the method.
        rows : slice or array_like
            Which, in any order.
        arrays : mapping
            Values ``(B, ...)`` by names of `schema.METHOD_FIELDS` and metrics, or one for all; and ``relevance``, of
            any scale, where the method keeps maps. Without ``state`` they are done.

        Raises
        ------
        StoreError, OutputError
            As `write_samples`.
        """
        group, method = self._group(name), self._methods[name]
        given, relevance = {key: value for key, value in arrays.items() if key != "relevance"}, arrays.get("relevance")
        batch = make_batch(rows, given, by_name(method_fields(method)), group, self._count)
        if not len(batch.rows):
            return
        if method.maps is None and relevance is not None:
            raise StoreError(f"{name} was added without maps: leave relevance out")
        if method.maps is None or relevance is None:
            if method.maps is not None and (batch.states == State.DONE).any():
                raise StoreError(f"{name} was added with maps: rows that are done come with relevance")
            self._write(group, batch)
            return
        scaled = scaled_maps(relevance, given.get("state", State.DONE), len(batch.rows), f"methods/{name}")
        maps = make_batch(rows, scaled, by_name(map_fields(method)), group["maps"], self._count)
        self._write(group, batch, maps)

    def commit(self) -> None:
        """Make everything written so far last: flush the rows, write their states, and flush these."""
        if not self._pending:
            return
        with as_output_error(self._path):
            self._file.flush()
            for group, batch in self._pending:
                store(group, batch.rows, {"state": batch.states})
            self._file.flush()
        self._pending.clear()

    def finish(self) -> None:
        """Commit, and mark the file complete.

        Raises
        ------
        StoreError
            If rows are absent.
        """
        self.commit()
        groups = {"samples": self._file["samples"], **{f"method {name}": self._group(name) for name in self._methods}}
        if absent := count_absent(groups, self._count):
            words = ", ".join(f"{count} of {name}" for name, count in absent.items())
            raise StoreError(f"{self._path} is not complete: of {self._count} rows absent are {words}")
        if len(self._file["sample"]) > self._count:  # of a stream, which has ended
            self._opened.resize(self._count)
        with as_output_error(self._path):
            synchronize(self._file)  # the disk fails here, before the file says that it is complete
        self._set_complete(True)

    def close(self) -> None:
        """Close the file. What was not committed is lost; a second time does nothing."""
        self._pending.clear()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, group: h5py.Group, batch: Batch, maps: Batch | None = None) -> None:
        reserve(self._file, self._path, batch.nbytes + (maps.nbytes if maps is not None else 0))
        if (values_at(group["state"], batch.rows) != State.ABSENT).any():
            self._take_back(group, batch)
        with as_output_error(self._path):
            store(group, batch.rows, batch.values)
            if maps is not None:
                store(group["maps"], maps.rows, maps.values)
        self._pending.append((group, batch))

    def _take_back(self, group: h5py.Group, batch: Batch) -> None:
        """Make rows absent before they are written again: new values must not pass for the old ones' whole."""
        self.commit()
        self._set_complete(False)
        with as_output_error(self._path):
            # Scores stand for the masking run that they were made from.
            of_it = [self._group(name) for name in self._methods] if group.name == "/samples" else []
            make_absent([*of_it, group], batch.rows)
            self._file.flush()

    def _set_complete(self, complete: bool) -> None:
        with as_output_error(self._path):
            set_complete(self._file, complete)
