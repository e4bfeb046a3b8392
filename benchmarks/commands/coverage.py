"""The sub-command ``coverage``: the zoo, model by model."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.app import RESULTS, Compare, Markdown, Results, Threads, app, earlier, quick, report_changes
from benchmarks.conditions import Conditions, Device, Dtype, under
from benchmarks.coverage.measure import CoverageRow, ask_peers, measure
from benchmarks.coverage.sweep import Summary, names_in, sweep, sweep_peers
from benchmarks.peers import require_peers
from benchmarks.quality.coco import DataError
from benchmarks.readme import put_tables
from benchmarks.records.ledger import Ledger
from benchmarks.workers import Worker
from benchmarks.zoo import choose, zoo


@app.command(epilog="Example: python -m benchmarks coverage --source timm --models 'vit_*' --redo 'vit_tiny*'")
def coverage(
    source: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only models from there, as timm; repeat for several.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all/--families", help="Every architecture of timm, or the smallest of each family.")
    ] = False,
    models: Annotated[str, typer.Option(metavar="GLOB", help="Only models with such names.")] = "*",
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="The first N of these, at most.")] = None,
    redo: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Drop the rows of such names first, of the models chosen.")
    ] = None,
    without: Annotated[
        Path | None,
        typer.Option(metavar="OTHER.csv", help="Leave out models that another file of results has a row of."),
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also ask captum, zennit, autoLRP and LXT (extra peers).")
    ] = False,
    threads: Threads = 1,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Models measured side by side.")] = 1,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Time for one model.")] = 600,
    memory: Annotated[float, typer.Option(metavar="GIB", min=1, help="Memory for one model.")] = 24,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(source=["timm"], limit=2)] = False,
) -> None:
    """Capture, explain and compare with autograd every model of the zoo; a rerun goes on where the last one ended."""
    if markdown is not None:
        put_tables("coverage", results, markdown)
        return
    before = earlier(compare, CoverageRow)
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    entries_of_zoo = zoo(everything)
    tried = set() if without is None else names_in(without)
    untried = [entry for entry in choose(entries_of_zoo, source, models) if (entry.source, entry.name) not in tried]
    entries = untried[:limit]
    if not entries:
        sources = ", ".join(dict.fromkeys(entry.source for entry in entries_of_zoo))
        where = f" from {' or '.join(source)}" if source else ""
        where += f" that {without.name} leaves" if without else ""
        raise DataError(f"no model of the zoo{where} is called {models!r}; there are models from {sources}")
    ledger = Ledger(results / f"coverage-{conditions}.csv", CoverageRow)
    chosen = {(entry.source, entry.name) for entry in entries}
    if redo is not None:
        ledger.keep(lambda row: not (fnmatchcase(row["name"], redo) and (row["source"], row["name"]) in chosen))
    if peers:
        require_peers()
    worker = partial(Worker, timeout=timeout, memory=memory)
    sweep(entries, ledger, [worker(partial(under, conditions, measure)) for _ in range(jobs)])
    if peers:
        sweep_peers(entries, ledger, [worker(partial(under, conditions, ask_peers)) for _ in range(jobs)])
    rows = [row for row in ledger.rows() if (row["source"], row["name"]) in chosen]
    for place in dict.fromkeys(row["source"] for row in rows):
        typer.echo(f"{place}: {Summary.of([row for row in rows if row['source'] == place])}")
    typer.echo(f"written: {ledger.path.name}")
    if before is not None:
        report_changes(rows, before)
