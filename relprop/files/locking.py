"""Locks of files, which end with the process that took them, whatever becomes of its forks.

A lock belongs to the open file, which a fork inherits. Processes that read pictures live on for seconds after the
writer was killed; if they held the file, the run could not be resumed meanwhile.
"""

from __future__ import annotations

import errno
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCKS = fcntl is not None
"""Whether the system has locks for files."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""How a file system says that it has none."""
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A file that is open and, where there are locks, locked until `release`; made by `take`."""

    def __init__(self, descriptor: int | None, works: bool) -> None:
        self.works = works
        """Whether others are kept away."""
        self.held = descriptor is not None and works
        """Whether they are until `release`; else whoever opens the file has to lock it again."""
        self._descriptors: dict[int, tuple[int, int]] = {}  # with the file's device and number
        self._close = None if descriptor is None else weakref.finalize(self, os.close, descriptor)
        if descriptor is not None:
            self.keep_from_forks(descriptor)
        _held.add(self)

    def is_of(self, path: Path) -> bool:
        """Whether the path still leads to the file that is locked: another one may have been put in its place."""
        if not self._descriptors:
            return True
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == next(iter(self._descriptors.values()))

    def keep_from_forks(self, descriptor: int) -> None:
        """See to it that forks of this process do not hold another descriptor of the file open, either."""
        found = os.fstat(descriptor)
        self._descriptors[descriptor] = (found.st_dev, found.st_ino)

    def release(self) -> None:
        """Let the file go; a second time does nothing."""
        self._descriptors.clear()
        if self._close is not None:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _leave_to_parent(self) -> None:
        """Put nothing in the place of descriptors: closed, their numbers would be given to other files."""
        for descriptor, (device, number) in self._descriptors.items():
            try:
                found = os.fstat(descriptor)
            except OSError:  # closed since
                continue
            if (found.st_dev, found.st_ino) == (device, number):
                nothing = os.open(os.devnull, os.O_RDONLY)
                os.dup2(nothing, descriptor, inheritable=False)
                os.close(nothing)
        self._descriptors.clear()


def take(path: Path, flags: int = os.O_RDWR, *, shared: bool = False) -> Lock:
    """Open a file and lock it, against all others or, ``shared``, against those who want it alone.

    Where the environment variable HDF5_USE_FILE_LOCKING has HDF5 lock its files whatever it is told, the lock is not
    held: HDF5 would be refused its own.

    Raises
    ------
    BlockingIOError
        If somebody else has it, be it in this process.
    OSError
        If it can't be opened.
    """
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    if fcntl is None:
        os.close(descriptor)  # a file that is open could not be replaced there
        return Lock(None, False)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return Lock(descriptor, False)
        os.close(descriptor)
        raise BlockingIOError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        os.close(descriptor)
        raise
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("TRUE", "1", "BEST_EFFORT"):
        os.close(descriptor)
        return Lock(None, True)
    return Lock(descriptor, True)


def _after_fork() -> None:
    for lock in list(_held):
        lock._leave_to_parent()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
