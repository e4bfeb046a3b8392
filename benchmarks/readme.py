"""The tables of the README, made of recorded results; they stand between two lines that name the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.coverage import sweep
from benchmarks.quality import ablation, gae
from benchmarks.records.tables import read
from benchmarks.speed import compare
from relprop.errors import RelpropError
from relprop.files import put_between

TABLES: Mapping[str, Callable[[Sequence[Mapping[str, str]]], str]] = {
    "ablation": ablation.tables,
    "coverage": sweep.markdown,
    "gae": gae.markdown,
    "speed": compare.markdown,
}
"""What makes tables of the rows of a file, by the command that wrote it."""


class RecordError(RelpropError, FileNotFoundError):
    """Results that are not there."""


def markers(command: str) -> tuple[str, str]:
    """Return the lines of a markdown file between which the tables of a command stand."""
    return f"<!-- benchmarks {command} -->", f"<!-- benchmarks {command} end -->"


def tables(command: str, results: Path) -> str:
    """Return the tables of all files that a command has recorded in a folder, each with the file's name.

    Raises
    ------
    RecordError
        There is none.
    """
    paths = sorted(results.glob(f"{command}-*.csv"), key=lambda path: [_order(part) for part in _parts(path)])
    if not paths:
        raise RecordError(f"{results} has no {command}-*.csv: run python -m benchmarks {command} first")
    return "\n\n".join(f"{TABLES[command](read(path)[1])}\n\nFrom `{path.name}`." for path in paths)


def put_tables(command: str, results: Path, file: Path) -> None:
    """Write the tables of a command into a file.

    Raises
    ------
    RecordError
        Nothing is recorded.
    OutputError
        The file can't be written, or has not the lines between which they belong.
    """
    put_between(file, *markers(command), tables(command, results))


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", path.name)


def _order(part: str) -> tuple[int, str]:
    """Sort 64 before 400."""
    return (int(part), "") if part.isdecimal() else (-1, part)
