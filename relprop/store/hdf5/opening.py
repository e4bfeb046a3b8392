"""Opening files, and what HDF5 says in errors, in words that tell what to do."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import h5py

from relprop.errors import RelpropError
from relprop.files import OutputError
from relprop.store.errors import BusyError, FormatError, MissingFileError, StoreError
from relprop.store.hdf5.crash_repair import count_in_torn_space
from relprop.store.hdf5.fork_lock import keep_from_forks

try:
    import fcntl
except ImportError:  # Windows: there HDF5 is the only one to ask
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""How a file system says that it has no locks."""
_REASON = re.compile(r"error message = '([^']*)'")


def open_hdf5(path: Path, mode: Literal["r", "r+"]) -> h5py.File:
    """Open an HDF5 file, locked against writers, or if it is to be written against everybody.

    On a file system without locks, or where the environment variable HDF5_USE_FILE_LOCKING switches them off, a
    warning says that nothing keeps a second writer away.

    Raises
    ------
    MissingFileError, BusyError, FormatError, StoreError, OutputError
    """
    if not path.exists():
        raise MissingFileError(f"there is no file {path}")
    if path.is_dir():
        raise FormatError(f"{path} is a folder, not a file of an evaluation")
    if path.stat().st_size == 0:  # to be written, HDF5 would take it for a new one
        raise FormatError(f"{path} is empty, not a file of an evaluation")
    with _locked(path, mode) as (_, locks):
        pass
    if mode == "r+" and not locks:
        warnings.warn(
            f"{path} can't be locked, so nothing keeps a second writer away: see to it that there is only one",
            stacklevel=4,
        )
    try:
        file = h5py.File(path, mode, locking="best-effort" if locks else False)
    except OSError as error:
        raise _translated(path, error) from error
    if mode == "r+":
        keep_from_forks(file)
    return file


def check_free(path: Path) -> None:
    """Refuse a file that someone has open, before it is replaced."""
    if path.is_file():
        with _locked(path, "r+"):
            pass


def settle_end(path: Path) -> None:
    """Put right where a file of an evaluation ends, if its writer was killed; see `relprop.store.hdf5.crash_repair`."""
    with _locked(path, "r+") as (descriptor, _):
        count_in_torn_space(descriptor)


@contextmanager
def telling_output_errors(path: Path, *, new: bool = False) -> Iterator[None]:
    """Turn what HDF5 raises when it can't write into an `OutputError` with the system's reason.

    Of a file that is ``new`` nothing was committed before.
    """
    try:
        yield
    except RelpropError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # h5py raises all of them
        found = _REASON.search(str(error))
        if found is None and not isinstance(error, OSError):
            raise
        reason = found.group(1) if found else getattr(error, "strerror", None) or str(error)
        kept = "" if new else ". What was committed before is kept"
        raise OutputError(f"cannot write {path}: {reason}{kept}") from error


@contextmanager
def _locked(path: Path, mode: Literal["r", "r+"]) -> Iterator[tuple[int, bool]]:
    """Hold the lock that HDF5 will ask for, and give a descriptor of the file and whether there are locks.

    HDF5 lets one process open a file twice; a lock is refused to a second descriptor in the same process, too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY if mode == "r" else os.O_RDWR)
    except OSError as error:
        kind, verb = (StoreError, "read") if mode == "r" else (OutputError, "write")
        raise kind(f"cannot {verb} {path}: {error.strerror}") from error
    try:
        locks = os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() not in ("FALSE", "0")
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if mode == "r" else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise _busy(path, mode) from error
            locks = False
        yield descriptor, locks
    finally:
        os.close(descriptor)


def _busy(path: Path, mode: str = "r") -> BusyError:
    if mode == "r":
        return BusyError(f"{path} is being written; read it when the run has ended, or has been stopped")
    return BusyError(
        f"{path} is open elsewhere, to be written or read; a file has one writer, and no readers beside it"
    )


def _translated(path: Path, error: OSError) -> StoreError:
    text = str(error)
    if "unable to lock file" in text or "already open" in text:
        return _busy(path)
    if "truncated file" in text:
        return FormatError(f"{path} is truncated: its end is missing, so it was not copied whole, or its disk was full")
    if "file signature not found" in text:
        return FormatError(f"{path} is not an HDF5 file")
    return FormatError(f"{path} is damaged, HDF5 can't open it: {text}")
