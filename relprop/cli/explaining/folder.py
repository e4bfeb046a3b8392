"""The folder that a run of ``relprop explain`` writes to: who may, what names are free in it, and its index."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from relprop.files import OutputError
from relprop.files.lines import LineFile
from relprop.files.locking import Lock, take

INDEX = "index.jsonl"
ENDINGS = (".png", ".layers.png", ".npz", ".h5")
"""What names of results end with."""


def take_folder(folder: Path, file: Path) -> Lock:
    """Make a folder, and the file in or below it whose lock keeps other runs out; return the lock.

    Raises
    ------
    OutputError
        Another run is at it; or it can't be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return take(file, os.O_RDWR | os.O_CREAT)
    except BlockingIOError as error:
        raise OutputError(f"{folder} is being written by another relprop: wait, or name another folder") from error
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error


class OutputFolder:
    """The folder of one run; a context manager that keeps other runs out of it.

    A line of the index is written once the files it names are whole, so an interrupted run leaves a valid one. A run
    into the folder of an earlier one adds lines, and its files have names of their own.

    Parameters
    ----------
    path : Path
        Where results go; it is made if it is missing.
    inputs : sequence of Path
        The pictures that are explained: none of them is ever written over or removed.
    overwrite : bool
        Whether the results that the index lists go, once there is a first one of this run.
    """

    def __init__(self, path: Path, inputs: Sequence[Path], *, overwrite: bool = False) -> None:
        self.path = path
        self.overwrite = overwrite
        self._inputs = {file.resolve() for file in inputs}
        self._numbers: Counter[str] = Counter()
        self._used: set[str] = set()
        self._listed: set[str] = set()
        self._lines: LineFile | None = None
        self._lock: Lock | None = None
        self._made: list[Path] = []
        self.at_first: Callable[[], object] = lambda: None
        """Called before the first result is written."""

    @property
    def index(self) -> Path:
        """The list of all results: one JSON object a line."""
        return self.path / INDEX

    def __enter__(self) -> Self:
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._made = [*([] if self.index.exists() else [self.index]), *new]
        self._lock = take_folder(self.path, self.index)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.close()
        else:
            self._leave_as_it_was()
        if self._lock is not None:
            self._lock.release()

    def begin(self) -> None:
        """Make room for the first result: earlier ones go where they are to be overwritten."""
        if self._lines is not None:
            return
        try:
            if self.overwrite:
                for name in listed(self.index):
                    self._remove(self.path / name)
                self.index.write_bytes(b"")
            else:
                whole = self.index.read_bytes()
                if not whole.endswith(b"\n"):  # a kill came into the middle of a line
                    os.truncate(self.index, whole.rfind(b"\n") + 1)
            self._lines = LineFile(self.index)
            self.at_first()
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {self.index}: {error.strerror or error}") from error

    def record(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the index; where that fails the files go that no line lists.

        Raises
        ------
        OutputError
            The index can't be written.
        """
        self.begin()
        assert self._lines is not None
        names = set(entry.get("paths", {}).values())
        try:
            self._lines.add(entry)
        except OutputError:
            for name in names - self._listed:
                (self.path / name).unlink(missing_ok=True)
            raise
        self._listed = names  # the next class of the same picture has the same files

    def free_name(self, name: Path) -> Path:
        """Return a name in the folder, without ending, that is free, and make the folder it lies in."""
        self.begin()
        key = name.as_posix()
        for number in count(self._numbers[key] + 1):
            stem = name if number == 1 else name.with_name(f"{name.name}-{number}")
            files = [f"{stem.as_posix()}{ending}" for ending in ENDINGS]
            folded = {file.casefold() for file in files}  # some file systems do not tell a.png from A.png
            places = [self.path / file for file in files]
            if folded.isdisjoint(self._used) and not any(os.path.lexists(place) for place in places):
                break
        self._numbers[key] = number
        self._used |= folded
        try:
            (self.path / stem).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {(self.path / stem).parent}: {error.strerror or error}") from error
        return stem

    def _remove(self, file: Path) -> None:
        """Remove a result; an index may list anything."""
        place = file.resolve()
        inside = place.is_relative_to(self.path.resolve()) and place.name.endswith(ENDINGS)
        if inside and place not in self._inputs:
            file.unlink(missing_ok=True)

    def _leave_as_it_was(self) -> None:
        """Remove the empty index and the folders that were made for a run that came to no result."""
        for path in self._made:
            with suppress(OSError):  # something else is in it
                if path == self.index:
                    path.unlink()
                else:
                    path.rmdir()


def listed(index: Path) -> Iterator[str]:
    """Yield the names of the files that an index lists; none where it is not one of ours."""
    with suppress(OSError, ValueError):
        for line in index.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("paths"), dict):
                yield from map(str, row["paths"].values())


def results_among(paths: Sequence[Path]) -> set[Path]:
    """Return which of some files are results: those that the index of a folder above them lists."""
    folders = {Path(os.path.abspath(name)) for name in {os.path.dirname(path) for path in paths}}
    above = {parent for folder in folders for parent in (folder, *folder.parents)}
    found = {str(folder / name) for folder in above for name in listed(folder / INDEX)}
    return {path for path in paths if os.path.abspath(path) in found} if found else set()


def mirrored(paths: Iterable[Path], given: Sequence[Path]) -> dict[Path, Path]:
    """Return for each picture the folder, below that of the results, which its own results go to.

    It is where the picture lies below the folder that was given; where several were, below one of that folder's name.
    """
    folders, files = [path for path in given if path.is_dir()], {path for path in given if not path.is_dir()}

    def below(path: Path) -> Path:
        for folder in folders:
            if path not in files and path.is_relative_to(folder):
                inside = path.relative_to(folder).parent
                if ".." not in inside.parts:
                    return Path(folder.resolve().name, inside) if len(folders) > 1 else inside
        return Path()

    return {path: below(path) for path in paths}
