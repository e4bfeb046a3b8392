"""Keeping the handles of data sets open until what was written through them is in the file.

HDF5 keeps values beside the handle of a data set and writes them when the last one is closed. h5py closes handles when
Python drops them, and there nobody hears that a write failed. While a handle is held, `h5py.File.flush` writes the
values, and raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py


def handles_of(file: h5py.File) -> list[h5py.Dataset]:
    """Open every data set of a file; whoever keeps the list holds them."""
    found: list[h5py.Dataset] = []

    def take(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(item)

    file.visititems(take)
    return found


@contextmanager
def writing(file: h5py.File) -> Iterator[list[h5py.Dataset]]:
    """Hold the data sets of a file open for writing, and flush it at the end; give a list for those that are made.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If a write fails: all of them are h5py's.
    """
    held = handles_of(file)
    yield held
    file.flush()


def synchronize(file: h5py.File) -> None:
    """Flush a file, and have the system put it on the disk: some only then say that there is no room, or an error."""
    file.flush()
    if file.driver == "sec2":  # it has a descriptor
        os.fsync(file.id.get_vfd_handle())
