"""The command line of the benchmarks: one sub-command a measurement."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.ablation import TABLES, AblationRow, ablate, markdown
from benchmarks.classifiers import CLASSIFIERS
from benchmarks.coco import DataError
from benchmarks.conditions import Conditions, Device, Dtype, under
from benchmarks.coverage import CoverageRow, ask_peers, measure
from benchmarks.gae import GaeRow, score
from benchmarks.ledger import Ledger
from benchmarks.peers import require_peers
from benchmarks.speed import SpeedRow, compare_speed
from benchmarks.stream import StreamRow, stream
from benchmarks.sweep import Summary, sweep, sweep_peers
from benchmarks.tables import show, write
from benchmarks.workers import Worker
from benchmarks.zoo import choose, zoo
from relprop.errors import RelpropError

RESULTS = Path(__file__).parent / "results"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Models = Annotated[list[str], typer.Option(metavar="NAME", help="A model; repeat for several.")]
Results = Annotated[Path, typer.Option(metavar="DIR", show_default="benchmarks/results", help="Where the CSV goes.")]
Shared = Annotated[Path, typer.Option(metavar="DIR", help="The folder that holds assets/ (pictures and weights).")]
SHARED = Path("../shared")
Threads = Annotated[int, typer.Option(metavar="N", min=1, help="Threads of PyTorch.")]


@app.callback()
def main() -> None:
    """Measure relprop; each sub-command prints a table and writes a CSV with its conditions in the name."""


@app.command(epilog="Example: python -m benchmarks speed --models resnet50 --models vgg16 --repeats 9")
def speed(
    models: Models = ["resnet50", "vit_base_patch16_224"],  # noqa: B006  # typer copies it
    batch: Annotated[int, typer.Option(metavar="N", min=2, help="Pictures explained at once.")] = 4,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds; the median is reported.")] = 7,
    threads: Threads = 2,
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.CPU,
    dtype: Annotated[Dtype, typer.Option(help="Precision of weights and pictures.")] = Dtype.FLOAT32,
    peers: Annotated[bool, typer.Option("--peers", help="Let captum, zennit, autoLRP and LXT take turns too.")] = False,
    results: Results = RESULTS,
) -> None:
    """Time explanations in units of one plain input gradient of the same process."""
    conditions = Conditions(device, dtype, threads)
    try:
        with conditions.in_force():
            rows = [row for name in models for row in compare_speed(name, batch, repeats, conditions, peers)]
    except RelpropError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(1) from error
    show(rows, SpeedRow)
    typer.echo(f"written: {write(rows, SpeedRow, results / f'speed-{conditions}.csv').name}")


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
    peers: Annotated[
        bool, typer.Option("--peers", help="Also ask captum, zennit, autoLRP and LXT (extra peers).")
    ] = False,
    threads: Threads = 1,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Models measured side by side.")] = 1,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Time for one model.")] = 600,
    memory: Annotated[float, typer.Option(metavar="GIB", min=1, help="Memory for one model.")] = 24,
    results: Results = RESULTS,
) -> None:
    """Capture, explain and compare with autograd every model of the zoo; a rerun goes on where the last one ended."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    entries = choose(zoo(everything), source, models)[:limit]
    try:
        if not entries:
            raise DataError(f"no model of the zoo is called {models!r}" + (f" in {source}" if source else ""))
        ledger = Ledger(results / f"coverage-{conditions}.csv", CoverageRow)
        chosen = {(entry.source, entry.name) for entry in entries}
        if redo is not None:
            ledger.keep(lambda row: not (fnmatchcase(row["name"], redo) and (row["source"], row["name"]) in chosen))
        if peers:
            require_peers()
        limits = {"timeout": timeout, "memory": memory}
        sweep(entries, ledger, [Worker(partial(under, conditions, measure), **limits) for _ in range(jobs)])
        if peers:
            sweep_peers(entries, ledger, [Worker(partial(under, conditions, ask_peers), **limits) for _ in range(jobs)])
    except RelpropError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(1) from error
    rows = [row for row in ledger.rows() if (row["source"], row["name"]) in chosen]
    for place in dict.fromkeys(row["source"] for row in rows):
        typer.echo(f"{place}: {Summary.of([row for row in rows if row['source'] == place])}")
    typer.echo(f"written: {ledger.path.name}")


@app.command(epilog="Example: python -m benchmarks ablation --shared ../shared --variants 'stabiliser*'")
def ablation(
    models: Models = list(CLASSIFIERS),  # noqa: B006  # typer copies it
    chosen: Annotated[str, typer.Option("--variants", metavar="GLOB", help="Only variants with such names.")] = "*",
    shared: Shared = SHARED,
    objects: Annotated[int, typer.Option(metavar="N", min=3, help="Outlined pictures per model, at most.")] = 16,
    pictures: Annotated[int, typer.Option(metavar="N", min=3, help="Labelled pictures per model, at most.")] = 16,
    threads: Threads = 1,
    results: Results = RESULTS,
) -> None:
    """Judge rule sets and open choices by masks and by removing pixels; a rerun goes on where the last one ended."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    try:
        ledger = Ledger(results / f"ablation-{objects}objects-{pictures}pictures-{conditions}.csv", AblationRow)
        with conditions.in_force():
            for name in models:
                ablate(name, shared, ledger, chosen, objects, pictures)
    except RelpropError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(1) from error
    rows = [row for row in ledger.rows() if row["model"] in models and fnmatchcase(row["variant"], chosen)]
    for heading, kinds in TABLES.items():
        typer.echo(markdown(rows, kinds, heading) + "\n")
    typer.echo(f"written: {ledger.path.name}")


@app.command(epilog="Example: python -m benchmarks gae --shared ../shared --pictures 400 --quick")
def gae(
    models: Models = list(CLASSIFIERS),  # noqa: B006  # typer copies it
    shared: Shared = SHARED,
    pictures: Annotated[int, typer.Option(metavar="N", min=4, help="Labelled pictures that are scored.")] = 64,
    slow: Annotated[bool, typer.Option("--slow/--quick", help="With methods of many passes, or without.")] = True,
    files: Annotated[Path, typer.Option(metavar="DIR", help="Where the HDF5 files of the runs go.")] = Path("runs"),
    threads: Threads = 1,
    results: Results = RESULTS,
) -> None:
    """Score methods on pretrained classifiers; a rerun goes on where the last one ended."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    try:
        with conditions.in_force():
            rows = [row for name in models for row in score(name, shared, pictures, slow, files)]
    except RelpropError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(1) from error
    show(rows, GaeRow)
    typer.echo(f"written: {write(rows, GaeRow, results / f'gae-{pictures}pictures-{conditions}.csv').name}")


@app.command("stream", epilog="Example: python -m benchmarks stream ../shared/assets/images/imagenet1k_one_per_class")
def measure_stream(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="A model.")] = "tf_efficientnet_lite0",
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Its weights.")] = None,
    fewer: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures of the shorter run.")] = 200,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures explained at once.")] = 8,
    results: Results = RESULTS,
) -> None:
    """Explain a folder from the command line: pictures a second beside plain inference, and peak memory."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, torch.get_num_threads())
    try:
        rows = stream(model, weights, folder, fewer, batch)
    except RelpropError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(1) from error
    show(rows, StreamRow)
    typer.echo(f"written: {write(rows, StreamRow, results / f'stream-{conditions}.csv').name}")


if __name__ == "__main__":
    torch.manual_seed(0)
    app(prog_name="python -m benchmarks")
