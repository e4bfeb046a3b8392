"""Writing a file whole or not at all, through a temporary file beside it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from relprop.errors import RelpropError
from relprop.files.locking import LOCKS, Lock, take


class OutputError(RelpropError, OSError):
    """A result that can't be written."""


@contextmanager
def written_whole(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write to, and put it in its place once that has succeeded.

    A link is followed. A temporary file that a kill left is used again, so that there is one at most.

    Parameters
    ----------
    path : Path
        Of the file.
    new : bool
        Whether a file that somebody else has put there meanwhile is an error, in place of being replaced.

    Raises
    ------
    OutputError
        If the folder is missing or can't be written.
    """
    with replacement(path, new=new) as (part, lock):
        yield part
    lock.release()


@contextmanager
def replacement(path: Path, *, new: bool = False) -> Iterator[tuple[Path, Lock]]:
    """As `written_whole`, and give the lock on the temporary file, which the caller holds on, and lets go."""
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    part, lock = None, None
    try:
        part, lock = _claim(place)
        yield part, lock
        _synchronize(part)
        _put_in_place(part, place, new)
    except BaseException as error:
        if lock is not None:
            lock.release()
        if isinstance(error, FileExistsError) and new:
            raise OutputError(f"cannot write {path}: somebody else has made it meanwhile") from error
        if isinstance(error, OSError) and not isinstance(error, RelpropError):
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    finally:
        if part is not None:
            with suppress(OSError):  # it is in its place by now
                part.unlink()


def discard_part(path: Path) -> None:
    """Remove the temporary file of ``path`` that a kill left, if there is one, and nobody writes to it."""
    place = Path(os.path.realpath(path))
    with suppress(OSError):
        if _part_of(place).stat().st_nlink > 1:  # the file itself, in its place already
            _part_of(place).unlink()
            return
        part, lock = _claim(place)
        part.unlink()
        lock.release()


def put_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two lines of a file, as an option ``--markdown`` asks for; the lines stay.

    Raises
    ------
    OutputError
        If the file can't be read or written, or has no such lines.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"--markdown {path}: {error}") from error
    before, _, rest = content.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise OutputError(f"--markdown {path}: put the lines {begin} and {end} where the tables are to be")
    with written_whole(path) as part:
        part.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _part_of(place: Path, mark: str = "") -> Path:
    """Return the temporary file of a path. It is short: the length of a name is limited."""
    digest = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:12]
    return place.with_name(f".{digest}{mark}.part{place.suffix}")


def _claim(place: Path) -> tuple[Path, Lock]:
    """Make the temporary file of a path, empty and locked; one with a name of its own where that can't be had."""
    part = _part_of(place)
    for _ in range(3 if LOCKS else 0):  # the one that was opened may have been put in its place before it was locked
        try:
            lock = take(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise
        except OSError:  # somebody is writing it, or it is none of ours
            break
        if not lock.held:
            if part.stat().st_size == 0:
                part.unlink()
            lock.release()
            break
        if lock.is_of(part):
            found = part.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                lock.release()
                break
            if found.st_nlink == 1:
                os.truncate(part, 0)
                return part, lock
            part.unlink()  # a kill came between the two names of a file that was in its place
        lock.release()
    part = _part_of(place, f"-{token_hex(4)}")
    return part, take(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)


def _put_in_place(part: Path, place: Path, new: bool) -> None:
    """Give a file its name; where it is ``new``, only if nobody has it."""
    if not new:
        part.replace(place)
        return
    try:
        os.link(part, place)
    except FileExistsError:
        raise
    except OSError:  # the file system has no links
        os.close(os.open(place, os.O_CREAT | os.O_EXCL))
        part.replace(place)


def _synchronize(path: Path) -> None:
    """Have the system put a file on the disk: some only then say that there is no room, or an error."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
