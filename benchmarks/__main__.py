"""The command line of the benchmarks: one sub-command a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.coco import Coco, DataError
from benchmarks.conditions import Conditions, Device, Dtype
from benchmarks.correctness import FAMILIES, CorrectnessRow, measure
from benchmarks.localisation import CLASSIFIERS, LocalisationRow, localise
from benchmarks.speed import SpeedRow, compare_speed
from benchmarks.stream import StreamRow, stream
from benchmarks.tables import show, write
from relprop.errors import RelpropError

RESULTS = Path(__file__).parent / "results"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Models = Annotated[list[str], typer.Option(metavar="NAME", help="A model; repeat for several.")]
Results = Annotated[Path, typer.Option(metavar="DIR", show_default="benchmarks/results", help="Where the CSV goes.")]
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


@app.command(epilog="Example: python -m benchmarks correctness --models resnet18 --models swin_tiny_patch4_window7_224")
def correctness(models: Models = FAMILIES, threads: Threads = 2, results: Results = RESULTS) -> None:
    """Compare programs with autograd, and follow the mass, on an architecture of every family."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    with conditions.in_force():
        rows = measure(models)
    show(rows, CorrectnessRow)
    typer.echo(f"written: {write(rows, CorrectnessRow, results / f'correctness-{conditions}.csv').name}")


@app.command(epilog="Example: python -m benchmarks localisation --shared ../shared --maps /tmp/maps")
def localisation(
    models: Models = list(CLASSIFIERS),  # noqa: B006  # typer copies it
    shared: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder that holds assets/ (pictures and weights).")
    ] = Path("../shared"),
    maps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw a panel per picture and model here, to look at.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Pictures per model, at most.")] = None,
    threads: Threads = 2,
    results: Results = RESULTS,
) -> None:
    """Measure the share of positive relevance that falls inside the object's mask."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    try:
        data = Coco.open(shared)
        if unknown := set(models) - set(CLASSIFIERS):
            raise DataError(f"no weights known for {', '.join(sorted(unknown))}; there are: {', '.join(CLASSIFIERS)}")
        with conditions.in_force():
            rows = [row for name in models for row in localise(name, data, limit, maps)]
    except RelpropError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(1) from error
    show(rows, LocalisationRow)
    typer.echo(f"written: {write(rows, LocalisationRow, results / f'localisation-{conditions}.csv').name}")


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
