"""Opening HDF5 files under a lock; HDF5's errors become messages that say what to do."""

from __future__ import annotations

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
from relprop.files.locking import LOCKS, Lock, take
from relprop.store.errors import BusyError, FormatError, MissingFileError, StoreError
from relprop.store.hdf5.crash_repair import extend_superblock_to_file_end
from relprop.store.hdf5.file_object import FileObject
from relprop.store.hdf5.foreign import refuse_foreign
from relprop.store.hdf5.seal import BLOCK, VerifiedFile, read_seal
from relprop.store.hdf5.stored import StoredFile

CHUNK_CACHE = 1 << 20
"""Bytes of a data set that is open: a writer has all of them open."""
_REASON = re.compile(r"error message = '([^']*)'")


def open_hdf5(path: Path, mode: Literal["r", "r+"], lock: Lock | None = None) -> h5py.File:
    """Open an HDF5 file: to read it, locked against writers; to write it, under a lock that the caller holds.

    Parameters
    ----------
    path : Path
        Of the file.
    mode : {"r", "r+"}
        Whether to read or to write.
    lock : Lock, optional
        That of `lock_to_write`, which lasts longer than the file is open.

    Raises
    ------
    MissingFileError, BusyError, FormatError, StoreError, OutputError
    """
    if lock is None:
        _require_file(path)
    file = None if mode == "r+" else _open_sealed(path, lock)
    if file is None:
        file = _open_plain(path, mode, lock)
    try:
        refuse_foreign(file)
    except BaseException:
        file.close()
        raise
    if mode == "r+" and lock is not None and os.name == "posix":
        lock.keep_from_forks(file.id.get_vfd_handle())
    return file


def _open_plain(path: Path, mode: Literal["r", "r+"], lock: Lock | None) -> h5py.File:
    if lock is None:
        with _locked(path, "r") as found:
            locking: bool | str = "best-effort" if found.works or not LOCKS else False
    else:  # HDF5 would be refused a second one
        locking = False if LOCKS else "best-effort"
    try:
        return h5py.File(path, mode, locking=locking, rdcc_nbytes=CHUNK_CACHE)
    except OSError as error:
        raise _translated(path, error) from error


def _open_sealed(path: Path, lock: Lock | None) -> h5py.File | None:
    """Open a file to read it through its seal; None where it has none."""
    held = _locked(path, "r") if lock is None else None
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        found = read_seal(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    if found is None:
        os.close(descriptor)
        return None
    return _open_object(path, VerifiedFile(path, descriptor, found, held))


def open_unlocked(path: Path, *, again: bool = False) -> tuple[h5py.File, bool]:
    """Open an HDF5 file to read it while others may write it: it is not locked, and nobody is kept from anything.

    Of one that has no seal what is read may change meanwhile, and may be met half written: `relprop.store.committed`
    says what can be relied on.

    Parameters
    ----------
    path : Path
        Of the file.
    again : bool
        Whether it was opened just before, and leads to no other file.

    Returns
    -------
    tuple
        The file, and whether it has a seal.

    Raises
    ------
    MissingFileError, FormatError, StoreError
    """
    _require_file(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        kind = MissingFileError if isinstance(error, FileNotFoundError) else StoreError
        raise kind(f"cannot read {path}: {error.strerror}") from error
    try:
        found = read_seal(descriptor, path)
        end = os.fstat(descriptor).st_size
    except BaseException:
        os.close(descriptor)
        raise
    plain = FileObject(path, descriptor, end) if found is None else VerifiedFile(path, descriptor, found, None)
    file = _open_object(path, plain)
    try:
        if not again:
            refuse_foreign(file)
    except BaseException:
        file.close()
        raise
    return file, found is not None


def may_be_written(path: Path) -> bool:
    """Say whether somebody writes a file: it is locked, or it has no seal where nothing can be locked.

    Raises
    ------
    MissingFileError, FormatError, StoreError
    """
    _require_file(path)
    try:
        with _locked(path, "r") as found:
            works = found.works
    except BusyError:
        return True
    if works or not LOCKS:
        return False
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        return read_seal(descriptor, path) is None
    finally:
        os.close(descriptor)


def _open_object(path: Path, content: FileObject) -> h5py.File:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, content)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    access.set_cache(*access.get_cache()[:2], CHUNK_CACHE, access.get_cache()[3])
    access.set_sieve_buf_size(BLOCK)  # HDF5 reads so much at once, and no block beyond what is read
    try:
        return StoredFile(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, access), content)
    except OSError as error:
        raise _translated(path, error) from error


def lock_to_write(path: Path) -> Lock:
    """Lock a file of an evaluation against everybody, until the lock is released.

    On a file system without locks, or where the environment variable HDF5_USE_FILE_LOCKING switches them off, a
    warning says that nothing keeps a second writer away.

    Raises
    ------
    MissingFileError, BusyError, FormatError, OutputError
    """
    _require_file(path)
    lock = lock_to_replace(path)
    if LOCKS and not lock.works:
        warnings.warn(
            f"{path} can't be locked, so nothing keeps a second writer away: see to it that there is only one",
            stacklevel=4,
        )
    return lock


def lock_to_replace(path: Path) -> Lock:
    """Lock a file of any kind against everybody until another one is in its place.

    Raises
    ------
    BusyError, OutputError
        Somebody has it open; it can't be written.
    """
    while not (lock := _locked(path, "r+")).is_of(path):  # another one was put in its place meanwhile
        lock.release()
    return lock


def repair_file_end(path: Path) -> None:
    """Put right where a file of an evaluation ends, if its writer was killed; see `relprop.store.hdf5.crash_repair`.

    One that has its seal was closed. Whoever calls it has locked the file.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        if read_seal(descriptor, path) is None:
            extend_superblock_to_file_end(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def as_output_error(path: Path, *, new: bool = False) -> Iterator[None]:
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


def _require_file(path: Path) -> None:
    if not path.exists():
        raise MissingFileError(f"there is no file {path}")
    if path.is_dir():
        raise FormatError(f"{path} is a folder, not a file of an evaluation")
    if path.stat().st_size == 0:  # to be written, HDF5 would take it for a new one
        raise FormatError(f"{path} is empty, not a file of an evaluation")


def _locked(path: Path, mode: Literal["r", "r+"]) -> Lock:
    """Take the lock that HDF5 would ask for.

    HDF5 lets one process open a file twice; a lock is refused to a second descriptor in the same process, too.
    """
    try:
        lock = take(path, os.O_RDONLY if mode == "r" else os.O_RDWR, shared=mode == "r")
    except BlockingIOError as error:
        raise _busy(path, mode) from error
    except OSError as error:
        kind, verb = (StoreError, "read") if mode == "r" else (OutputError, "write")
        raise kind(f"cannot {verb} {path}: {error.strerror}") from error
    lock.works &= os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() not in ("FALSE", "0")
    return lock


def _busy(path: Path, mode: str = "r") -> BusyError:
    if mode == "r":
        return BusyError(f"{path} is being written; read it when the run has ended, or has been stopped")
    return BusyError(f"{path} is being written or read by another relprop: wait until it has ended")


def _translated(path: Path, error: OSError) -> StoreError:
    text = str(error)
    if "unable to lock file" in text or "already open" in text:
        return _busy(path)
    if "truncated file" in text:
        return FormatError(f"{path} is truncated: its end is missing, so it was not copied whole, or its disk was full")
    if "file signature not found" in text:
        return FormatError(f"{path} is not an HDF5 file")
    return FormatError(f"{path} is damaged, HDF5 can't open it: {text}")
