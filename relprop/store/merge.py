"""Shards of one evaluation, joined into the file that the unsharded run would have written."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike


def merge(paths: Sequence[str | PathLike[str]], out: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Join the complete shards of one evaluation into one file, written whole or not at all.

    Raises
    ------
    MergeError
        If a shard is incomplete, missing or given twice, or they differ in configuration, versions of the file, or
        methods.
    OutputError
        If ``out`` exists, unless it shall be overwritten, or can't be written.
    """
    raise NotImplementedError
