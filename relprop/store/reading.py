"""Opening files of evaluations to read them, with errors that say what is wrong."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import h5py

from relprop.errors import RelpropError
from relprop.files.locking import Lock
from relprop.store.description import check_identity
from relprop.store.errors import FormatError
from relprop.store.hdf5.compression import require_readable
from relprop.store.hdf5.opening import open_hdf5
from relprop.store.validation import check_skeleton


def open_evaluation(path: str | PathLike[str], lock: Lock | None = None) -> h5py.File:
    """Open a file of an evaluation for reading, complete or not; the caller closes it.

    What it holds is said by `relprop.store.schema`; `read_config`, `read_layout`, `read_method`, `method_names` and
    `is_complete` read its descriptions. Whoever holds the lock to write it passes that.

    Raises
    ------
    MissingFileError
        If there is none.
    BusyError
        If a writer is at it.
    FormatError
        If it is damaged, truncated, not HDF5, not of an evaluation, or of a newer format version.
    MissingExtraError
        If its compression needs a package that is not installed.
    """
    file = open_hdf5(Path(path), "r", lock)
    try:
        check_identity(file)
        check_skeleton(file)
        require_readable(file)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError | RuntimeError | KeyError) and not isinstance(error, RelpropError):  # h5py's
            raise FormatError(f"{path} is damaged, what it says of itself can't be read: {error}") from error
        raise
    return file
