"""Names and folder of the shards of a run, until they are joined."""

from __future__ import annotations

import re
from pathlib import Path

NAME = re.compile(r"shard-(\d+)-of-(\d+)\.h5")
"""The name of a shard's file: its number, counted from 0, and how many there are."""


_SUFFIX = ".shards"


def shard_folder(output: Path) -> Path:
    """Return the folder of the shards of a run, beside its file."""
    return output.with_name(f"{output.name}{_SUFFIX}")


def run_file(path: Path) -> Path:
    """Return the file of a run, given that or the folder of its shards."""
    name = path.name.removesuffix(_SUFFIX)
    return path.with_name(name) if name else path


def shard_file(output: Path, part: int, parts: int) -> Path:
    """Return the path of shard ``part`` of ``parts`` of the run with this file."""
    return shard_folder(output) / f"shard-{part:04}-of-{parts:04}.h5"


def shard_files(folder: Path) -> list[Path]:
    """Return the shards in a folder, in their order; none where there is no such folder."""
    return sorted(path for path in folder.glob("*.h5") if NAME.fullmatch(path.name))
