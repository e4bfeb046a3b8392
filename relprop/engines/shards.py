"""The shards of a run: files in a folder beside its file, until they are joined."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
from numpy.typing import NDArray

from relprop.engines.errors import EngineError
from relprop.evaluation.data.units import plan_units
from relprop.files import OutputError, written_whole
from relprop.files.locking import take
from relprop.store import BusyError, merge, open_evaluation, read_planned, split, survey
from relprop.store.errors import no_cut
from relprop.store.hdf5.opening import lock_to_replace
from relprop.store.shards import NAME, shard_file, shard_files, shard_folder

EACH = 6
"""Shards of a worker: the last one to end holds the others for a small part of the run."""
MOST = 400
"""Shards of a run: all of them are open when they are joined, and a process may open a thousand files."""
NAMED = "run.id"
"""The file in the folder of shards that holds the name of the run."""
_LOCK = "run.lock"


@dataclass(frozen=True)
class ShardFolder:
    """Where the shards of a run lie.

    Parameters
    ----------
    output : Path
        The file of the run.
    """

    output: Path

    @property
    def path(self) -> Path:
        """The folder."""
        return shard_folder(self.output)

    def file(self, part: int, parts: int) -> Path:
        """Return the path of shard ``part`` of ``parts``."""
        return shard_file(self.output, part, parts)

    def files(self) -> list[Path]:
        """Return the shards that are there."""
        return shard_files(self.path)

    def parts(self) -> int | None:
        """Return into how many shards the run was cut; None where it was not yet.

        Raises
        ------
        EngineError
            There are shards of several cuts.
        """
        found = {int(match[2]) for path in self.files() if (match := NAME.fullmatch(path.name))}
        if len(found) > 1:
            raise EngineError(
                f"{self.path} holds shards of several runs, cut into {', '.join(map(str, sorted(found)))}: remove what "
                "is not of this one"
            )
        return next(iter(found), None)

    @contextmanager
    def held(self, *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Make the folder and keep other runs from it; it goes again if it is empty in the end.

        Raises
        ------
        OutputError
            There are shards, or the file, of an earlier run, which shall neither be resumed nor overwritten; or the
            folder can't be made.
        BusyError
            Another run is at it.
        """
        for there, what in ((self.output.exists(), self.output), (bool(self.files()), self.path)):
            if there and not (resume or overwrite):
                raise OutputError(f"{what} exists: pass <resume> or <overwrite>", resume="True", overwrite="True")
        if self.output.is_dir():
            raise OutputError(f"{self.output} is a folder: name a file in it")
        if not self.output.parent.exists():
            raise OutputError(f"cannot write {self.output}: there is no folder {self.output.parent}")
        try:
            self.path.mkdir(exist_ok=True)
            (self.path / _LOCK).touch()
            lock = take(self.path / _LOCK)
        except BlockingIOError as error:
            raise BusyError(f"{self.output} is being written by another relprop: wait until it has ended") from error
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error
        with lock:
            try:
                yield
            finally:
                if not self.files():
                    for name in (_LOCK, NAMED):
                        (self.path / name).unlink(missing_ok=True)
                    if not any(self.path.iterdir()):
                        self.path.rmdir()

    def is_named(self) -> bool:
        """Say whether the run has a name already."""
        return (self.path / NAMED).exists()

    def name(self) -> str:
        """Return the name of this run, by which machines that work on it know it; the same when it is resumed."""
        file = self.path / NAMED
        if not self.is_named():
            with written_whole(file) as part:
                part.write_text(token_hex(8))
        return file.read_text()

    def clear(self) -> None:
        """Remove the file and the shards of an earlier run.

        Raises
        ------
        BusyError, OutputError
            Somebody has the file open; it can't be written.
        """
        self.remove()
        if self.output.exists():
            with lock_to_replace(self.output):
                self.output.unlink()

    def plan(self, samples: int, unit: int, workers: int) -> int:
        """Return into how many shards a run is cut: as it was already, or more of them than there are workers."""
        units = math.ceil(math.ceil(samples / 4) / max(1, unit))  # another one is refused by workers
        return self.parts() or max(1, min(units, EACH * workers, MOST))

    def cut(self, parts: int, order: NDArray[np.int64], unit: int) -> None:
        """Cut the file, where there is one of an earlier run, into those shards that are not there.

        Parameters
        ----------
        parts : int
            How many shards there are in all.
        order : ndarray
            Indices of the samples in their order, ``(N,)``: those of the file, and perhaps further ones.
        unit : int
            Mosaics per unit of work.

        Raises
        ------
        ConfigurationError
            The file has more samples.
        StoreError, OutputError
            As `relprop.store.split`.
        """
        missing = {part: path for part in range(parts) if not (path := self.file(part, parts)).exists()}
        if not self.output.exists() or not missing:
            return
        with open_evaluation(self.output) as file:
            there = read_planned(file)
        if there is None:
            raise EngineError(f"{self.output} is of a stream, or of format 1: continue it in one process")
        if there > len(order):
            raise no_cut(self.output, there, len(order))
        of_part: dict[int, list[int]] = {part: [] for part in missing}
        for one in plan_units(order[:there], unit):
            if (part := one.number % parts) in missing:
                of_part[part] += one.samples
        shards = {missing[part]: (part, sorted(index)) for part, index in of_part.items() if index}
        split(self.output, shards, parts)

    def join(self, parts: int, *, overwrite: bool) -> None:
        """Join all shards into the file, read it back, and remove the shards only then.

        Raises
        ------
        EngineError
            The joined file is not what was written.
        MergeError, OutputError
            As `relprop.store.merge`.
        """
        merge([self.file(part, parts) for part in range(parts)], self.output, overwrite=overwrite)
        found = survey(self.output)
        if not (found.sound and found.checked and found.complete):
            raise EngineError(f"the joined file is damaged, the shards stay in {self.path}: {found}")
        self.remove()

    def remove(self) -> None:
        """Remove the shards, and what writers that were killed left beside them."""
        for path in [*self.files(), *self.path.glob(".*.part.h5")]:
            path.unlink()
        (self.path / NAMED).unlink(missing_ok=True)
