"""Repairing the end of a file whose writer was killed, before anything is written to it again.

HDF5 writes its superblock, which says where the file ends, after all else. A kill before that leaves entries of rows
that refer to space behind that end; HDF5 would give this space away a second time, and what is committed later would
be overwritten when such a row is done again. The room that the writer reserves makes the file longer than all that it
ever referred to, so that the file's own length is a safe end.
"""

from __future__ import annotations

import os
from typing import Final

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n\x02\x08\x08"
"""How superblocks of version 2 with 64-bit addresses begin, as `relprop.store.writing.build.new_file` makes them."""
END: Final = slice(28, 36)
CHECKSUM: Final = slice(44, 48)
_MASK: Final = 0xFFFFFFFF


def extend_superblock_to_file_end(descriptor: int) -> None:
    """Make the superblock of a file, open for writing and locked, say that it ends where it does.

    A file that was closed, or is shorter than it should be, is left as it is.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    block = bytearray(os.read(descriptor, CHECKSUM.stop))
    length = os.fstat(descriptor).st_size
    if len(block) < CHECKSUM.stop or not block.startswith(SIGNATURE):
        return
    if length <= int.from_bytes(block[END], "little"):
        return
    block[END] = length.to_bytes(8, "little")
    block[CHECKSUM] = checksum(bytes(block[: CHECKSUM.start])).to_bytes(4, "little")
    os.lseek(descriptor, 0, os.SEEK_SET)
    written = 0
    while written < len(block):  # a system may write less than is requested
        written += os.write(descriptor, block[written:])


def checksum(data: bytes) -> int:
    """Return the checksum of HDF5's metadata: lookup3 (``hashlittle``) of Bob Jenkins, from zero.

    The variables are his: https://burtleburtle.net/bob/c/lookup3.c.
    """
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    if not data:
        return c
    padded = data + bytes(-len(data) % 12)
    for start in range(0, len(padded), 12):
        a, b, c = (
            (old + int.from_bytes(padded[at : at + 4], "little")) & _MASK
            for old, at in ((a, start), (b, start + 4), (c, start + 8))
        )
        if start + 12 < len(padded):
            for shift in (4, 6, 8, 16, 19, 4):
                a = ((a - c) ^ _rotated(c, shift)) & _MASK
                c = (c + b) & _MASK
                a, b, c = b, c, a
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, shift)) & _MASK
        a, b, c = b, c, a
    return b  # what was c before the last turn


def _rotated(value: int, shift: int) -> int:
    return (value << shift | value >> (32 - shift)) & _MASK
