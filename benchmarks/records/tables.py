"""Rows of results: printed as a short table, and written as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from relprop.files import written_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def cells(row: DataclassInstance) -> list[str]:
    """Return the values of a row as text, numbers to four significant digits; what is None is empty."""
    return [
        f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
        for value in asdict(row).values()
    ]


def show(rows: Sequence[DataclassInstance], kind: type[Any]) -> None:
    """Print rows under the names of their fields, numbers to the right."""
    show_lines([columns(kind), *map(cells, rows)])


def show_lines(lines: Sequence[Sequence[str]]) -> None:
    """Print lines of cells below each other, all but the first two columns to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        typer.echo("  ".join(padded).rstrip())


def markdown_table(lines: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """Return lines of cells, the first of them the header, as a markdown table.

    Parameters
    ----------
    lines : sequence of sequence of str
        Header and rows, equally long.
    numbers : int
        So many columns from the right are aligned to the right.
    """
    header, *rows = lines
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def write(rows: Sequence[DataclassInstance], kind: type[Any], path: Path) -> Path:
    """Write rows as CSV, in one piece, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns(kind))
        writer.writerows(map(cells, rows))
    return path


def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns of a CSV, and its rows by their names."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return list(reader.fieldnames or []), rows


def columns(kind: type[Any]) -> list[str]:
    """Return the names of the fields of a kind of row."""
    return [field.name for field in fields(kind)]
