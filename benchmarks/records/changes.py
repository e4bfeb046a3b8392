"""Changes since an earlier file of results: rows are matched by their keys, numbers divided."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.tables import columns, read
from relprop.errors import RelpropError

Row = Mapping[str, str]


class ComparisonError(RelpropError, ValueError):
    """A file that holds no results of the kind that are measured."""


@dataclass(frozen=True)
class Earlier:
    """An earlier file of results.

    Attributes
    ----------
    path
        Where it was read.
    kind
        The dataclass of its rows. Its ``KEYS`` name the columns that say what was measured.
    columns
        Which it has: those of the kind, but for some that it had not yet or has no more.
    rows
        By the names of the columns.
    """

    path: Path
    kind: type[Any]
    columns: Sequence[str]
    rows: Sequence[Row]

    @classmethod
    def open(cls, path: Path, kinds: Sequence[type[Any]]) -> Earlier:
        """Read a file, whose rows are of one of some kinds.

        Raises
        ------
        ComparisonError
            They are of none, or it is no file.
        """
        if not path.is_file():
            raise ComparisonError(f"there is no file {path} to compare with")
        try:
            found, rows = read(path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ComparisonError(f"{path} can't be compared with: {error}") from error
        fitting = [kind for kind in kinds if set(kind.KEYS) <= set(found)]
        if not fitting:
            wanted = " or ".join(f"({', '.join(kind.KEYS)})" for kind in kinds)
            raise ComparisonError(f"{path} can't be compared with: it has no columns {wanted}")
        kind = max(fitting, key=lambda one: len(set(columns(one)) & set(found)))
        return cls(path, kind, found, rows)

    def changes(self, rows: Sequence[Row]) -> list[list[str]]:
        """Compare new rows with those of the file.

        Returns
        -------
        list of list of str
            A line of headings, and one for each row of either: its keys, then of each column that both have the new
            number over the old one, or ``old -> new`` where these are other words. What one of them has not is empty; a
            row that only one of them has says so in the last column.
        """
        keys = list(self.kind.KEYS)
        measured = [name for name in columns(self.kind) if name not in keys and name in self.columns]
        old, new = ({tuple(row[key] for key in keys): row for row in some} for some in (self.rows, rows))
        lines = [[*keys, *measured, ""]]
        for key in [*new, *(key for key in old if key not in new)]:
            if key in old and key in new:
                lines.append([*key, *(change(old[key][name], new[key][name]) for name in measured), ""])
            else:
                lines.append([*key, *[""] * len(measured), "new" if key in new else "not measured now"])
        return lines


def change(old: str, new: str) -> str:
    """Say how a cell has changed: ``x1.25``, ``old -> new``, or nothing where the same words are there."""
    try:
        before, after = float(old), float(new)
    except ValueError:
        return "" if old == new else f"{old or 'nothing'} -> {new or 'nothing'}"
    if before == after:
        return "x1"
    return f"x{after / before:.3g}" if before else f"{old} -> {new}"
