"""Closing a file that was written, which gets its seal."""

from __future__ import annotations

from pathlib import Path

import h5py

from relprop.store.description import has_seal
from relprop.store.hdf5.disk_space import trim
from relprop.store.hdf5.handles import synchronize
from relprop.store.hdf5.seal import seal


def close_sealed(path: Path, file: h5py.File, held: list[h5py.Dataset]) -> None:
    """Close a file that is locked, let its handles go, and seal what is then on the disk, if its format has seals.

    Where HDF5 could not write all of it, it gets no seal.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If a write fails.
    """
    sealed = has_seal(file)
    try:
        synchronize(file)
    finally:
        held.clear()
        file.close()
        trim(path, path)
    if sealed:
        seal(path)
