"""A file that is open to be written, with its lock and the handles of its data sets; closed, it gets its seal."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from relprop.files.locking import Lock
from relprop.store.description import has_seal
from relprop.store.hdf5.disk_space import trim
from relprop.store.hdf5.handles import handles_of, synchronize
from relprop.store.hdf5.opening import as_output_error, open_hdf5
from relprop.store.hdf5.seal import seal, unseal
from relprop.store.writing.extending import extended


class WritableFile:
    """An open file, and what is held as long.

    Parameters
    ----------
    path : Path
        Of the file.
    file : h5py.File
        Open for writing; another one after `resize`.
    lock : Lock
        Of the file, which is released when it is closed.
    """

    def __init__(self, path: Path, file: h5py.File, lock: Lock) -> None:
        self.path, self.file = path, file
        self._lock, self._held = lock, handles_of(file)  # see relprop.store.hdf5.handles
        self._open = True

    @classmethod
    def open(cls, path: Path, lock: Lock) -> Self:
        """Open a file that is locked, without its seal; where that fails, the lock is released."""
        with ExitStack() as stack:
            stack.callback(lock.release)
            with as_output_error(path):
                unseal(path)
            file = open_hdf5(path, "r+", lock)
            stack.callback(file.close)
            found = cls(path, file, lock)
            stack.pop_all()
            return found

    def resize(self, rows: int) -> None:
        """Put a copy of a stream's file with so many rows in its place, and open that.

        Raises
        ------
        OutputError
            If it can't be written. The old one is in its place, and open.
        """
        with as_output_error(self.path):
            self.file.flush()
            self._let_go()
        old = self._lock
        try:
            self._lock = extended(self.path, old, np.arange(rows), None)
            old.release()
        finally:
            self.file = open_hdf5(self.path, "r+", self._lock)
            self._held, self._open = handles_of(self.file), True

    def close(self) -> None:
        """Close the file, and seal what is then on the disk, if its format has seals; a second time does nothing.

        Where HDF5 could not write all of it, it gets no seal.

        Raises
        ------
        OutputError
            If a write fails.
        """
        with self._lock, as_output_error(self.path):
            if not self._open:
                return
            sealed = has_seal(self.file)
            try:
                synchronize(self.file)
            finally:
                self._let_go()
                trim(self.path, self.path)
            if sealed:
                seal(self.path)

    def _let_go(self) -> None:
        """Close the file. Where that fails HDF5 has freed what it stands on, and must not be asked for it again."""
        self._open = False
        self._held.clear()
        self.file.close()
