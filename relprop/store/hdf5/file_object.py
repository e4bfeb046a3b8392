"""A file that HDF5 reads through Python: every byte passes here, and no lock of HDF5's own is asked for."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from relprop.store.errors import StoreError


class FileObject:
    """An open file for h5py's driver for files of Python.

    Parameters
    ----------
    path : Path
        Of the file, for errors.
    descriptor : int
        Which is open to read it, and closed with this.
    end : int
        Bytes that HDF5 may read.
    """

    def __init__(self, path: Path, descriptor: int, end: int) -> None:
        self._path, self._descriptor, self._end, self._at = path, descriptor, end, 0
        self._close = weakref.finalize(self, os.close, descriptor)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        """Read as much as the buffer takes."""
        stop = min(self._at + len(buffer), self._end)
        if stop <= self._at:
            return 0
        part = self.content(self._at, stop)
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def content(self, start: int, stop: int) -> memoryview:
        """Return the bytes between two places."""
        return memoryview(os.pread(self._descriptor, stop - start, start))

    def read(self, size: int) -> bytes:
        """Read as much, as `readinto`."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def write(self, content: bytes) -> int:
        """Refuse: HDF5 asks for this method, and never writes a file opened to be read."""
        raise StoreError(f"{self._path} is open to be read: it can't be changed ({len(content)} bytes)")

    def truncate(self, size: int) -> int:
        """Do nothing: the length stays."""
        return size

    def flush(self) -> None:
        """Do nothing: nothing is written."""
