"""HDF5 files made in memory and then written: on a full disk HDF5 itself ends the process, or hides the error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import h5py

from relprop.files.whole import written_whole

_GROWTH = 1 << 20
"""Bytes by which a file in memory grows at once."""


@contextmanager
def hdf5_written_whole(path: Path) -> Iterator[h5py.File]:
    """Give an HDF5 file in memory, and write it to a path once all is in it: whole or not at all.

    Raises
    ------
    OutputError
        If the folder is missing or can't be written.
    """
    name = f"relprop-{token_hex(8)}"  # of no file: the driver keeps none, but two that are open must differ
    with h5py.File(name, "w", driver="core", backing_store=False, block_size=_GROWTH) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    with written_whole(path) as part:
        part.write_bytes(image)
