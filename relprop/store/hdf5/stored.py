"""The bytes of a file as they are stored, past HDF5's filters but not past the checksums of a sealed file."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

import h5py

from relprop.store.hdf5.file_object import FileObject

Content = Callable[[int, int], memoryview]
"""Returns the bytes between two places of a file; of a sealed one none that are not as they were sealed."""


class StoredFile(h5py.File):  # type: ignore[misc]  # h5py has no types
    """A file that HDF5 reads through a file object of Python.

    Parameters
    ----------
    identifier : FileID
        Of the open file.
    stored : FileObject
        Through which every byte of it is read.
    """

    def __init__(self, identifier: Any, stored: FileObject) -> None:
        super().__init__(identifier)
        self._stored = weakref.ref(stored)  # it goes, with its lock, when HDF5 closes the file

    def content(self, start: int, stop: int) -> memoryview:
        """Return the bytes between two places."""
        stored = self._stored()
        if stored is None:
            raise ValueError("the file is closed: nothing can be read of it")
        return stored.content(start, stop)


def content_of(file: h5py.File) -> Content:
    """Return what reads the bytes of a file that is open to be read, by the way that HDF5 reads it."""
    if isinstance(file, StoredFile):
        return file.content
    descriptor = file.id.get_vfd_handle()
    end = os.fstat(descriptor).st_size
    return lambda start, stop: memoryview(os.pread(descriptor, min(stop, end) - start, start))
