"""A fork of the process that writes a file does not hold it open, so its lock ends with the writer.

A lock belongs to the open file, which a fork inherits. Processes that read pictures live on for seconds after the
writer was killed; if they held the file, the run could not be resumed meanwhile.
"""

from __future__ import annotations

import os

import h5py

_written: dict[int, tuple[int, int]] = {}
"""Descriptors of the files that this process writes, each with its file's device and number."""


def keep_from_forks(file: h5py.File) -> None:
    """See to it that forks of this process do not hold a file open."""
    if os.name == "posix":
        descriptor = file.id.get_vfd_handle()
        found = os.fstat(descriptor)
        _written[descriptor] = (found.st_dev, found.st_ino)


def _let_go() -> None:
    """Put nothing in the place of descriptors: closed, their numbers would be given to other files."""
    for descriptor, (device, number) in _written.items():
        try:
            found = os.fstat(descriptor)
        except OSError:  # closed since
            continue
        if (found.st_dev, found.st_ino) == (device, number):
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, descriptor, inheritable=False)
            os.close(nothing)
    _written.clear()


if os.name == "posix":
    os.register_at_fork(after_in_child=_let_go)
