"""Files of evaluations, opened for reading with errors that say what is wrong."""

from __future__ import annotations

from os import PathLike

import h5py


def open_evaluation(path: str | PathLike[str]) -> h5py.File:
    """Open a file of an evaluation for reading, complete or not; the caller closes it.

    Raises
    ------
    MissingFileError
        If there is none.
    BusyError
        If a writer is at it.
    FormatError
        If it is truncated, not HDF5, not of an evaluation, or of a newer format version.
    CodecError
        If its compression needs a package that is not installed.
    """
    raise NotImplementedError
