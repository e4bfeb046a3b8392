"""The sub-commands ``ablation`` and ``gae``: the quality of maps, on real weights and pictures."""

from __future__ import annotations

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
)
from benchmarks.conditions import Conditions, Device, Dtype
from benchmarks.quality.ablation import AblationRow, ablate, order_rows
from benchmarks.quality.classifiers import CLASSIFIERS
from benchmarks.quality.comparison import tables
from benchmarks.quality.gae import GaeRow, score
from benchmarks.quality.recognised import Half
from benchmarks.quality.variants import DEFAULT, FINALISTS, choose, find_variant
from benchmarks.readme import put_tables
from benchmarks.records.ledger import Ledger

_SMALL = "squeezenet1_1"


Finalists = Annotated[
    list[str],
    typer.Option(
        "--finalists",
        metavar="VARIANT",
        help=f'Only these, {FINALISTS} at most with the default, as "epsilon-plus log-odds"; repeatable.',
    ),
]
Default = Annotated[str, typer.Option(metavar="VARIANT", help="What all others are compared with.")]


@app.command(epilog="Example: python -m benchmarks ablation --shared ../shared --variants 'epsilon*' --half choose")
def ablation(
    models: Models = list(CLASSIFIERS),  # noqa: B006  # typer copies it
    variants: Annotated[str, typer.Option(metavar="GLOB", help="Only variants with such names.")] = "*",
    finalists: Finalists = [],  # noqa: B006  # as above
    default: Default = DEFAULT,
    half: Annotated[Half, typer.Option(help="Pictures to choose by, or those to report.")] = Half.CHOOSE,
    shared: Shared = SHARED,
    objects: Annotated[
        int, typer.Option(metavar="N", min=0, help="Outlined pictures per model, at most; 0: all that qualify.")
    ] = 0,
    pictures: Annotated[int, typer.Option(metavar="N", min=4, help="Labelled pictures per model, at most.")] = 16,
    redrawn: Annotated[
        int, typer.Option(metavar="N", min=0, help="Labelled pictures explained with weights drawn anew too.")
    ] = 4,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what was refused.")] = False,
    threads: Threads = 1,
    results: Results = RESULTS,
    markdown: Markdown = None,
    quickly: Annotated[
        bool, quick(models=[_SMALL], variants="epsilon none", default="abslrp none", objects=3, pictures=4, redrawn=1)
    ] = False,
) -> None:
    """Judge rule sets, contrasts, open choices and other methods; a rerun goes on where the last one ended."""
    if markdown is not None:
        put_tables("ablation", results, markdown)
        return
    chosen = choose(variants, finalists, default)
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    ledger = Ledger(results / f"ablation-{half}-{pictures}pictures-{conditions}.csv", AblationRow)
    if retry:
        ledger.keep(lambda row: not row["reason"])
    with conditions.in_force():
        for name in models:
            ablate(name, shared, ledger, chosen, half, objects or None, pictures, redrawn)
    rows = [row for row in order_rows(ledger.rows(), chosen) if row["model"] in models]
    typer.echo(tables(rows, default) + "\n")
    typer.echo(f"written: {ledger.path.name}")


@app.command(epilog="Example: python -m benchmarks gae --shared ../shared --pictures 400 --fast")
def gae(
    models: Models = list(CLASSIFIERS),  # noqa: B006  # typer copies it
    shared: Shared = SHARED,
    pictures: Annotated[int, typer.Option(metavar="N", min=4, help="Labelled pictures that are scored.")] = 64,
    slow: Annotated[bool, typer.Option("--slow/--fast", help="With the methods that take longest, or without.")] = True,
    finalists: Finalists = [],  # noqa: B006  # as above
    half: Annotated[Half | None, typer.Option(help="Only pictures of this half.")] = None,
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
    chosen = [find_variant(name) for name in finalists]
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    with conditions.in_force():
        rows = [row for name in models for row in score(name, shared, pictures, slow, files, chosen, half)]
    which = f"gae-{'' if half is None else f'{half}-'}{pictures}pictures"
    report([Table(which, GaeRow, rows)], str(conditions), results, before)
