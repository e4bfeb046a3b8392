"""The tables of the README, made of recorded results; they stand between two lines that name the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.coverage import sweep
from benchmarks.quality import comparison, gae
from benchmarks.records.tables import read
from benchmarks.runs import samples, spread, start, throughput
from benchmarks.speed import choices, compare, scale
from relprop.errors import RelpropError
from relprop.files import put_between

TABLES: Mapping[str, Callable[[Sequence[Mapping[str, str]]], str]] = {
    "ablation": comparison.tables,
    "ablation-summary": comparison.summary,
    "choices": choices.markdown,
    "coverage": sweep.markdown,
    "gae": gae.markdown,
    "samples": samples.markdown,
    "scale": scale.markdown,
    "speed": compare.markdown,
    "start": start.markdown,
    "throughput": throughput.markdown,
    "workers": spread.markdown,
}
"""What makes tables of the rows of a file, by what stands in the lines around them: a command, and perhaps what else it
has to say."""
RECORDED = {"ablation-summary": "ablation-report"}
"""How the names of files begin, where not with the command."""


class RecordError(RelpropError, FileNotFoundError):
    """Results that are not there."""


def markers(command: str) -> tuple[str, str]:
    """Return the lines of a markdown file between which the tables of a command stand."""
    return f"<!-- benchmarks {command} -->", f"<!-- benchmarks {command} end -->"


def tables(name: str, results: Path) -> str:
    """Return the tables of all files recorded in a folder for a name, each with the file's name.

    Raises
    ------
    RecordError
        There is none.
    """
    begin = RECORDED.get(name, name)
    paths = sorted(results.glob(f"{begin}-*.csv"), key=lambda path: [_order(part) for part in _parts(path)])
    if not paths:
        raise RecordError(f"{results} has no {begin}-*.csv: run python -m benchmarks {name.partition('-')[0]} first")
    return "\n\n".join(f"{TABLES[name](read(path)[1])}\n\nFrom `{path.name}`." for path in paths)


def put_tables(command: str, results: Path, file: Path) -> None:
    """Write the tables of a command into a file, where it has lines for them.

    Raises
    ------
    RecordError
        Nothing is recorded.
    OutputError
        The file can't be written, or has not the lines between which they belong.
    """
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    names = [name for name in TABLES if name.partition("-")[0] == command]
    for name in [name for name in names if markers(name)[0] in text] or [command]:
        put_between(file, *markers(name), tables(name, results))


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", path.name)


def _order(part: str) -> tuple[int, str]:
    """Sort 64 before 400."""
    return (int(part), "") if part.isdecimal() else (-1, part)
