"""What maps are worth, on real weights and pictures: ``ablation``, ``gae``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.app import (
    RESULTS,
    SHARED,
    Compare,
    Markdown,
    Models,
    Results,
    Shared,
    Table,
    Threads,
    app,
    earlier,
    quick,
    report,
    report_changes,
)
from benchmarks.conditions import Conditions, Device, Dtype
from benchmarks.quality.ablation import AblationRow, ablate, tables
from benchmarks.quality.classifiers import CLASSIFIERS
from benchmarks.quality.gae import GaeRow, score
from benchmarks.readme import put_tables
from benchmarks.records.ledger import Ledger

_SMALL = "squeezenet1_1"


@app.command(epilog="Example: python -m benchmarks ablation --shared ../shared --variants 'stabiliser*'")
def ablation(
    models: Models = list(CLASSIFIERS),  # noqa: B006  # typer copies it
    variants: Annotated[str, typer.Option(metavar="GLOB", help="Only variants with such names.")] = "*",
    shared: Shared = SHARED,
    objects: Annotated[int, typer.Option(metavar="N", min=3, help="Outlined pictures per model, at most.")] = 16,
    pictures: Annotated[int, typer.Option(metavar="N", min=3, help="Labelled pictures per model, at most.")] = 16,
    threads: Threads = 1,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(models=[_SMALL], variants="stabiliser: 0", objects=3, pictures=3)] = False,
) -> None:
    """Judge rule sets and open choices by masks and by removing pixels; a rerun goes on where the last one ended."""
    if markdown is not None:
        put_tables("ablation", results, markdown)
        return
    before = earlier(compare, AblationRow)
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    ledger = Ledger(results / f"ablation-{objects}objects-{pictures}pictures-{conditions}.csv", AblationRow)
    with conditions.in_force():
        for name in models:
            ablate(name, shared, ledger, variants, objects, pictures)
    rows = [row for row in ledger.rows() if row["model"] in models and fnmatchcase(row["variant"], variants)]
    typer.echo(tables(rows) + "\n")
    typer.echo(f"written: {ledger.path.name}")
    if before is not None:
        report_changes(rows, before)


@app.command(epilog="Example: python -m benchmarks gae --shared ../shared --pictures 400 --fast")
def gae(
    models: Models = list(CLASSIFIERS),  # noqa: B006  # typer copies it
    shared: Shared = SHARED,
    pictures: Annotated[int, typer.Option(metavar="N", min=4, help="Labelled pictures that are scored.")] = 64,
    slow: Annotated[bool, typer.Option("--slow/--fast", help="With the methods that take longest, or without.")] = True,
    files: Annotated[Path, typer.Option(metavar="DIR", help="Where the HDF5 files of the runs go.")] = Path("runs"),
    threads: Threads = 1,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(models=[_SMALL], pictures=4, slow=False)] = False,
) -> None:
    """Score methods on pretrained classifiers; a rerun goes on where the last one ended."""
    if markdown is not None:
        put_tables("gae", results, markdown)
        return
    before = earlier(compare, GaeRow)
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    with conditions.in_force():
        rows = [row for name in models for row in score(name, shared, pictures, slow, files)]
    report([Table(f"gae-{pictures}pictures", GaeRow, rows)], str(conditions), results, before)
