"""A CSV that grows row by row and survives being killed at any moment."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.records.tables import cells, columns
from relprop.errors import RelpropError
from relprop.files import written_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class LedgerError(RelpropError):
    """A file of results that holds something else than the rows that are to be added."""


class Ledger:
    """Rows of one kind in a file, each written as soon as it is known.

    A row is a single line and a single write, so a kill leaves it whole or away; should a disk have taken a part of
    one, that part is dropped when the file is opened.

    Parameters
    ----------
    path : Path
        Of a CSV; made when the first row comes.
    kind : type
        The dataclass of the rows.

    Raises
    ------
    LedgerError
        If the file has other columns.
    """

    def __init__(self, path: Path, kind: type[Any]) -> None:
        self.path = path
        self.columns = columns(kind)
        if path.exists():
            self._drop_partial_line()
            with path.open(newline="") as file:
                found = next(csv.reader(file), [])
            if found and found != self.columns:
                raise LedgerError(
                    f"{path} has other columns ({', '.join(found)}) than rows have now ({', '.join(self.columns)}): "
                    "move it away to begin again"
                )

    def rows(self) -> list[dict[str, str]]:
        """Return what was written so far."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def append(self, row: DataclassInstance) -> None:
        """Write a row, and make sure that it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            header = _line(self.columns) if file.tell() == 0 else b""
            file.write(header + _line([" ".join(cell.split()) for cell in cells(row)]))
            os.fsync(file.fileno())

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Drop the rows that are not wanted."""
        self._rewrite([row for row in self.rows() if wanted(row)])

    def fill(self, where: dict[str, str], values: dict[str, str]) -> None:
        """Put values into the row that has others."""
        self._rewrite([row | values if where.items() <= row.items() else row for row in self.rows()])

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with written_whole(self.path) as part:
            lines = [self.columns, *([" ".join(row[name].split()) for name in self.columns] for row in rows)]
            part.write_bytes(b"".join(map(_line, lines)))

    def _drop_partial_line(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))


def _line(values: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
