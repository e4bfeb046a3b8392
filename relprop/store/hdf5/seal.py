"""The seal of a file: a checksum of each of its blocks, so that nothing damaged is ever decoded.

HDF5 trusts what it reads: a byte that changed in an address or a length gives other numbers, a crash, or a search
without end. So a file that is closed gets a seal behind the end that HDF5 knows of, where no reader of HDF5 minds it:
the CRC-32 of each block, as 32-bit numbers, then a footer. Every byte that HDF5 asks for is compared first. A writer
takes the seal off before it changes anything; a file whose writer was killed has none, and is unchecked until it is
resumed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from relprop.files.locking import Lock
from relprop.store.errors import DamageError
from relprop.store.hdf5.file_object import FileObject

BLOCK: Final = 1 << 10
"""Bytes that share a checksum, and are lost together: 256 values of a score."""
MAGIC: Final = b"relprop seal 1\r\n"
_FOOTER: Final = struct.Struct("<QII16s")
"""The end of HDF5's part, the size of a block, the CRC-32 of the table and of both, and `MAGIC`."""
_AT_ONCE: Final = BLOCK << 10


@dataclass(frozen=True, eq=False)
class Seal:
    """The checksums of a file.

    Parameters
    ----------
    end : int
        Bytes of HDF5's part, which the seal follows.
    checksums : ndarray
        CRC-32 of each block ``(blocks,)``; the last block may be shorter.
    """

    end: int
    checksums: NDArray[np.uint32]


def seal(path: Path) -> None:
    """Give a file its seal, after HDF5 has closed it; whoever calls it has locked the file.

    Raises
    ------
    OSError
        If there is no room, or the disk fails; the file is without a seal then.
    """
    descriptor = os.open(path, os.O_RDWR)
    end = os.fstat(descriptor).st_size
    try:
        table = _table(zlib.crc32(block) for block in _blocks(descriptor, end))
        try:
            _write(descriptor, table, end)
            os.fsync(descriptor)  # the footer vouches for the table
            _write(descriptor, _footer(table, end), end + len(table))
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def unseal(path: Path) -> None:
    """Take the seal off a file that is locked and shall be changed; one without is left as it is."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        found = read_seal(descriptor, path)
        if found is not None:
            os.ftruncate(descriptor, found.end)
    finally:
        os.close(descriptor)


def read_seal(descriptor: int, path: Path) -> Seal | None:
    """Read the seal of an open file; None where there is none.

    Raises
    ------
    DamageError
        If the seal itself is damaged.
    """
    length = os.fstat(descriptor).st_size
    if length < _FOOTER.size:
        return None
    end, block, checksum, magic = _FOOTER.unpack(os.pread(descriptor, _FOOTER.size, length - _FOOTER.size))
    if magic != MAGIC:
        return None
    size = 4 * -(-end // BLOCK)
    table = os.pread(descriptor, size, end) if end + size + _FOOTER.size == length and block == BLOCK else b""
    if not table or _footer(table, end) != _FOOTER.pack(end, block, checksum, magic):
        raise DamageError(
            f"{path} is damaged in its checksums, the end of the file: whether its values are right can't be said. "
            "h5py opens it without checking them"
        )
    return Seal(end, np.frombuffer(table, "<u4").astype(np.uint32))


def damaged_blocks(path: Path) -> list[int] | None:
    """Return where blocks begin that are not as they were sealed; None of a file without a seal."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = read_seal(descriptor, path)
        if found is None:
            return None
        pairs = enumerate(zip(_blocks(descriptor, found.end), found.checksums, strict=True))
        return [number * BLOCK for number, (block, checksum) in pairs if zlib.crc32(block) != checksum]
    finally:
        os.close(descriptor)


class VerifiedFile(FileObject):
    """A sealed file: HDF5 gets no byte of it that is not as it was sealed.

    Parameters
    ----------
    path : Path
        Of the file, for errors.
    descriptor : int
        Which is open to read it, and closed with this.
    found : Seal
        Of the file.
    lock : Lock, optional
        Which is held as long.
    """

    def __init__(self, path: Path, descriptor: int, found: Seal, lock: Lock | None) -> None:
        super().__init__(path, descriptor, found.end)
        self._seal, self._lock = found, lock

    def content(self, start: int, stop: int) -> memoryview:
        """Return the bytes between two places.

        Raises
        ------
        DamageError
            If a block of them is not as it was sealed.
        """
        first = start // BLOCK * BLOCK
        view = super().content(first, min(-(-stop // BLOCK) * BLOCK, self._seal.end))
        wanted = self._seal.checksums[first // BLOCK : -(-stop // BLOCK)].tolist()
        for place, checksum in zip(range(0, len(view), BLOCK), wanted, strict=False):
            if zlib.crc32(view[place : place + BLOCK]) != checksum:
                raise DamageError(
                    f"{self._path} is damaged: its bytes {first + place} to {first + place + BLOCK - 1} are not those "
                    "that were written. relprop validate names what they hold; all else can be read"
                )
        return view[start - first : stop - first]


def _blocks(descriptor: int, end: int) -> Iterator[memoryview]:
    for start in range(0, end, _AT_ONCE):
        content = memoryview(os.pread(descriptor, min(_AT_ONCE, end - start), start))
        yield from (content[at : at + BLOCK] for at in range(0, len(content), BLOCK))


def _table(checksums: Iterator[int]) -> bytes:
    return np.fromiter(checksums, "<u4").tobytes()


def _footer(table: bytes, end: int) -> bytes:
    return _FOOTER.pack(end, BLOCK, zlib.crc32(struct.pack("<QI", end, BLOCK), zlib.crc32(table)), MAGIC)


def _write(descriptor: int, content: bytes, place: int) -> None:
    written = 0
    while written < len(content):  # a system may write less than is requested
        written += os.pwrite(descriptor, content[written:], place + written)
