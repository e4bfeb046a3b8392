"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from relprop.errors import RelpropError


class OutputError(RelpropError, OSError):
    """A result that can't be written where it was asked for."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write to, and put it in its place once that has succeeded.

    Raises
    ------
    OutputError
        If the folder is missing or can't be written.
    """
    part = path.with_name(f".{token_hex(6)}.part{path.suffix}")  # short: the length of a name is limited
    try:
        yield part
        _synchronize(part)
        part.replace(path)
    except OutputError:  # an OSError, too, but in our words already
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is in its place by now, or could not even be made
            part.unlink()


def _synchronize(path: Path) -> None:
    """Have the system put a file on the disk: some only then say that there is no room, or an error."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
