"""Reserving room on the disk in advance, so that HDF5 never meets a full one half way through its records."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from relprop.files import OutputError
from relprop.store.hdf5.opening import as_output_error

MARGIN = 1 << 18
"""Bytes beside the values themselves: indices of chunks, heaps of strings, and what compression may add."""


def reserve(file: h5py.File, path: Path, size: int, *, new: bool = False) -> None:
    """Extend a file by room for so many bytes of values, or refuse while what it holds is whole.

    Of a ``new`` file nothing was committed before. What is not used of it is cut off by `trim`. Where the system
    can't reserve (not on Linux), nothing is done.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.id.get_vfd_handle(), file.id.get_filesize(), size + size // 8 + MARGIN)
    except OSError as error:
        advice = "make room" if new else "What was committed before is kept; make room and resume the run"
        raise OutputError(f"cannot write {path}: {error.strerror}{': ' if new else '. '}{advice}") from error


def trim(path: Path, named: Path, *, new: bool = False) -> None:
    """Cut off what was reserved and not used; HDF5 does so when it closes a file longer than it knows.

    Whoever calls it has locked the file. An `OutputError` names the file by what it will be called, see
    `as_output_error`.
    """
    with as_output_error(named, new=new), h5py.File(path, "r+", locking=False):
        pass
