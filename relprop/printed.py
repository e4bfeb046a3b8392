"""Objects that print themselves: as text in a shell, and as tables in a notebook."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby


@dataclass(frozen=True)
class Table:
    """Columns of text.

    Parameters
    ----------
    header : sequence of str
        Names of the columns; empty where they have none.
    rows : sequence of sequence of str
        Cells, as many as the header has.
    words : int
        So many columns from the left are words, to the left; the others are numbers, to the right.

    Examples
    --------
    >>> print(Table(["method", "n"], [["absLRP", "64"], ["IG", "7"]]))
    method   n
    absLRP  64
    IG       7
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def __str__(self) -> str:
        lines = [*([self.header] if self.header else []), *self.rows]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        aligned = (
            "  ".join(
                cell.ljust(width) if column < self.words else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )
        return "\n".join(line.rstrip() for line in aligned)

    def html(self) -> str:
        """Return it as a table of HTML."""
        head = [_row("th", self.header, self.words)] if self.header else []
        return f"<table>{''.join([*head, *(_row('td', row, self.words) for row in self.rows)])}</table>"


class Printed:
    """Base of objects that look the same in a shell, a debugger and a notebook, as `print` shows them.

    A subclass returns in ``_blocks`` what it shows: lines of text, empty ones between paragraphs, and tables.
    """

    def _blocks(self) -> Iterable[str | Table]:
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n".join(map(str, self._blocks()))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_of(self._blocks())


def html_of(blocks: Iterable[str | Table]) -> str:
    """Return lines of text and tables as HTML, which holds all that the text does."""
    parts = []
    for kind, group in groupby(blocks, key=lambda block: type(block) if block else None):
        if kind is Table:
            parts += [table.html() for table in group if isinstance(table, Table)]
        elif kind is not None:
            parts.append(f"<p>{'<br>'.join(escape(str(line)).replace(chr(10), '<br>') for line in group)}</p>")
    return f"<div>{''.join(parts)}</div>"


def picture_html(png: bytes, words: str) -> str:
    """Return a picture as HTML that needs no other file; ``words`` stand for it where it can't be seen."""
    source = base64.b64encode(png).decode()
    return f'<img alt="{escape(words)}" style="max-width: 100%" src="data:image/png;base64,{source}">'


def _row(cell: str, words: Iterable[str], left: int) -> str:
    cells = (
        f'<{cell} style="text-align: {"left" if place < left else "right"}">{escape(word)}</{cell}>'
        for place, word in enumerate(words)
    )
    return f"<tr>{''.join(cells)}</tr>"
