"""Files of evaluations, opened for reading with errors that say what is wrong."""

from __future__ import annotations

import time
from os import PathLike
from pathlib import Path

import h5py

from relprop.errors import RelpropError
from relprop.files.locking import Lock
from relprop.store.description import check_identity
from relprop.store.errors import BusyError, FormatError, StoreError
from relprop.store.hdf5.compression import require_readable
from relprop.store.hdf5.opening import open_hdf5, open_unlocked
from relprop.store.validation import check_skeleton

TRIES, PAUSE = 20, 0.05
"""How often a file is opened that a writer is changing just then, and seconds in between."""


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
    return _checked(open_hdf5(Path(path), "r", lock))


def open_live(path: str | PathLike[str]) -> h5py.File:
    """Open a file of an evaluation for reading as `open_evaluation` does, or else while it is being written.

    The run goes on. Rows whose state is done were written before that state, so states are to be read first. What else
    is read may change meanwhile: an error of reading means that it is to be read again.

    Raises
    ------
    BusyError
        If it is being changed whenever it is opened.
    MissingFileError, FormatError, MissingExtraError
        As `open_evaluation`.
    """
    path = Path(path)
    for _ in range(TRIES):
        try:
            return open_evaluation(path)
        except BusyError:
            try:
                return _checked(open_unlocked(path))
            except StoreError:  # met in the middle of a change; where there is more to it the next try tells
                time.sleep(PAUSE)
    raise say_busy(path)


def say_busy(path: Path) -> BusyError:
    """Return the error for a file whose writer was met in the middle of a change."""
    return BusyError(f"{path} is being written, and was changed while it was read: try again in a moment")


def _checked(file: h5py.File) -> h5py.File:
    """Return a file of an evaluation; close one of anything else, and say what it is."""
    path = file.filename
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
