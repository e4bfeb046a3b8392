"""The file that a shard is collected in, batch by batch: a run that was killed goes on from there.

It is a tar to whose end a batch is written, then a member whose name says how many pictures are in. What follows the
last such member is of a batch that was broken off, and is cut away.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from relprop.cli.explaining.sharded.storage import Sample
from relprop.files import OutputError
from relprop.files.locking import Lock, take

_MARK = "pictures-"


class WorkingFile:
    """A context manager, which keeps others out; the file is made, or continued, where the block begins.

    Parameters
    ----------
    path : Path
        Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = 0
        """Pictures that are in."""
        self._file: IO[bytes] | None = None
        self._lock: Lock | None = None
        self._batch: list[Sample] = []

    def __enter__(self) -> Self:
        try:
            self._lock = take(self.path, os.O_RDWR | os.O_CREAT)
            end, self.done = _whole(self.path)
            self._file = self.path.open("r+b")
            self._file.truncate(end)
            self._file.seek(end)
        except BlockingIOError as error:
            raise OutputError(
                f"{self.path} is still being written by a process of a run that was killed: wait until it has ended"
            ) from error
        except OSError as error:
            self.__exit__(None, None, None)
            raise _refused(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.release()

    def add(self, sample: Sample) -> None:
        """Take a sample of the batch that is under way."""
        self._batch.append(sample)

    def commit(self, done: int) -> None:
        """Write the batch, with which so many pictures are in.

        Raises
        ------
        OutputError
            The disk is full, or fails; what was committed before is kept.
        """
        assert self._file is not None, "a file is written inside of its block"
        content = io.BytesIO()
        for sample in self._batch:
            add_members(content, sample)
        add_member(content, f"{_MARK}{done}", b"")
        try:
            self._file.write(content.getbuffer())
            self._file.flush()
        except OSError as error:
            raise _refused(self.path, error) from error
        self.done, self._batch = done, []


def add_members(file: IO[bytes], sample: Sample) -> None:
    """Write a sample to the end of a tar: what is told of it, and its map."""
    add_member(file, f"{sample.key}.json", json.dumps(sample.entry).encode())
    if sample.content is not None:
        add_member(file, f"{sample.key}.npy", sample.content)


def add_member(file: IO[bytes], name: str, content: bytes) -> None:
    """Write a member to the end of a tar; nothing in it depends on who writes it, and when."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    file.write(member.tobuf(tarfile.USTAR_FORMAT))
    file.write(content)
    file.write(b"\0" * (-len(content) % tarfile.BLOCKSIZE))


def samples_of(path: Path) -> Iterator[Sample]:
    """Yield the samples of a working file by their keys, one in memory at a time."""
    with tarfile.open(path, "r:") as tar:
        places = {member.name: member for member in tar if not member.name.startswith(_MARK)}
        for name in sorted(name for name in places if name.endswith(".json")):
            key = name.removesuffix(".json")
            heat = places.get(f"{key}.npy")
            entry = json.loads(_content(tar, places[name]))
            yield Sample(key, entry, None if heat is None else _content(tar, heat))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "members are files"
    return file.read()


def _whole(path: Path) -> tuple[int, int]:
    """Return where the last whole batch of a file ends, and how many pictures are in until there."""
    end, done = 0, 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.startswith(_MARK):
                    end, done = member.offset_data, int(member.name.removeprefix(_MARK))
    except tarfile.TarError:  # a kill came into the middle of a member
        pass
    return end, done


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}. What was committed before is kept; the same command goes on"
    )
