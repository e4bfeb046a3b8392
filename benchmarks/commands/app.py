"""The application of all sub-commands: common options, and the tables that they print and write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from benchmarks.conditions import Conditions, ConditionsError, Device, Dtype
from benchmarks.readme import put_tables
from benchmarks.records.changes import Earlier
from benchmarks.records.tables import cells, columns, show, show_lines, write
from relprop.errors import RelpropError

RESULTS = Path(__file__).parents[1] / "results"
QUICK_RESULTS = Path("runs") / "quick"
SHARED = Path("../shared")


class _OneLineErrors(TyperGroup):
    """Commands that say in one line what is wrong."""

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except RelpropError as error:
            typer.echo(f"benchmarks: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def main() -> None:
    """Measure relprop; each sub-command prints a table and writes a CSV with its conditions in the name."""


def quick(**defaults: Any) -> Any:
    """Make an option that gives the other ones defaults with which a command takes a minute or less."""

    def hurry(context: typer.Context, quick_run: bool) -> bool:
        if quick_run:
            assert defaults.keys() <= {parameter.name for parameter in context.command.params}
            context.default_map = {**defaults, "results": QUICK_RESULTS}
        return quick_run

    said = ", ".join(f"{name.replace('_', '-')} {_said(value)}" for name, value in defaults.items())
    return typer.Option(
        "--quick",
        is_eager=True,  # before the options whose defaults it changes
        callback=hurry,
        help=f"In a minute or less, to see that it works: {said} where not given; into {QUICK_RESULTS}.",
    )


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _writable(folder: Path) -> Path:
    """Make the folder for results, before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ConditionsError(f"no results can be written to {folder}: {error.strerror}; see --results") from error


Models = Annotated[list[str], typer.Option(metavar="NAME", help="A model; repeat for several.")]
TimmModels = Annotated[
    list[str],
    typer.Option(metavar="NAME[:OPTION=VALUE]", help="A timm model, as vit_tiny_patch16_224:depth=6; repeatable."),
]
Batch = Annotated[int, typer.Option(metavar="N", min=2, help="Pictures at once.")]
Repeats = Annotated[int, typer.Option(metavar="N", min=1, help="Rounds; the median is reported.")]
Threads = Annotated[int, typer.Option(metavar="N", min=1, help="Threads of PyTorch.")]
OnDevice = Annotated[Device, typer.Option("--device", help="Where the models run.")]
InDtype = Annotated[Dtype, typer.Option("--dtype", help="Precision of weights and pictures.")]
Tf32 = Annotated[bool, typer.Option("--tf32", help="Let a GPU round the factors of float32 products.")]
Shared = Annotated[Path, typer.Option(metavar="DIR", help="The folder that holds assets/ (pictures and weights).")]
Results = Annotated[
    Path, typer.Option(metavar="DIR", show_default="benchmarks/results", callback=_writable, help="Where CSVs go.")
]
Compare = Annotated[
    Path | None, typer.Option("--compare", metavar="OLD.csv", help="Show what has changed since an earlier file.")
]
Markdown = Annotated[
    Path | None,
    typer.Option(
        "--markdown",
        metavar="FILE",
        help="Measure nothing: put the tables of all that is recorded between two lines of this file, as the README's.",
    ),
]


@dataclass(frozen=True)
class Table:
    """Rows of one kind, and how the name of their file begins."""

    name: str
    kind: type[Any]
    rows: Sequence[Any]


def earlier(path: Path | None, *kinds: type[Any]) -> Earlier | None:
    """Open the file to compare with, before anything is measured, or written over it."""
    return None if path is None else Earlier.open(path, kinds)


def report(tables: Sequence[Table], conditions: str, results: Path, before: Earlier | None) -> None:
    """Print tables, write them, and say what has changed."""
    for table in tables:
        show(table.rows, table.kind)
        typer.echo(f"written: {write(table.rows, table.kind, results / f'{table.name}-{conditions}.csv').name}\n")
        if before is not None and table.kind is before.kind:
            names = columns(before.kind)
            report_changes([dict(zip(names, cells(row), strict=True)) for row in table.rows], before)


def measure_or_put(
    name: str,
    kind: type[Any],
    measure: Callable[[], Sequence[Any]],
    conditions: Conditions,
    results: Path,
    compare: Path | None,
    markdown: Path | None,
) -> None:
    """Measure the rows of a command's one table and report them; or put what is recorded of it into a file."""
    if markdown is not None:
        put_tables(name, results, markdown)
        return
    before = earlier(compare, kind)
    with conditions.in_force():
        rows = measure()
    report([Table(name, kind, rows)], conditions.on_machine, results, before)


def report_changes(rows: Sequence[dict[str, str]], before: Earlier) -> None:
    """Print what has changed since an earlier file."""
    typer.echo(f"now over {before.path.name}:")
    show_lines(before.changes(rows))
