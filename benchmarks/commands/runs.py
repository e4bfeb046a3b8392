"""The sub-commands about the cost of whole runs: of evaluations, streams, first pictures, and of runs that grow."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import timm
import torch
import typer

from benchmarks.commands.app import (
    RESULTS,
    Compare,
    Markdown,
    OnDevice,
    Repeats,
    Results,
    Table,
    Tf32,
    Threads,
    app,
    earlier,
    measure_or_put,
    quick,
    report,
)
from benchmarks.conditions import Conditions, Device, Dtype
from benchmarks.readme import put_tables
from benchmarks.records.ledger import Ledger
from benchmarks.records.tables import show_lines
from benchmarks.runs.evaluation import (
    CostRow,
    EvaluationRow,
    measure_costs,
    measure_runs,
    open_plan,
    require_whole_units,
)
from benchmarks.runs.growth import GrowthRow, measure_memory
from benchmarks.runs.samples import SamplesRow, measure_samples, parse_case
from benchmarks.runs.spread import WorkersRow, measure_workers
from benchmarks.runs.start import StartRow, measure_start
from benchmarks.runs.stream import StreamRow
from benchmarks.runs.stream import stream as measure_stream
from benchmarks.runs.synthetic import write_pictures
from benchmarks.runs.throughput import ThroughputRow, measure_throughput

_FIRST = ["tf_efficientnet_lite0", "resnet50", "vit_base_patch16_224"]
_SCORED = ["mobilenetv2_100", "vit_tiny_patch16_224"]
_CASES = ["1000", "10000", "100000", "100000:256"]
_WORKERS = [1, 2]
_METHODS, _COUNTS = ["abslrp", "random"], [200, 2000]


@app.command(epilog="Example: python -m benchmarks evaluate --model mobilenet_v2 --shared ../shared --samples 64")
def evaluate(
    model: Annotated[str, typer.Option(metavar="NAME", help="A timm model.")] = "resnet50",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its weights, if not random ones or those in --shared.")
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder that holds assets/: pictures and weights from there."),
    ] = None,
    side: Annotated[
        int | None, typer.Option(metavar="N", min=8, help="Side of what a model with random weights sees.")
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=4, help="Pictures of the run.")] = 32,
    methods: Annotated[list[str], typer.Option(metavar="NAME", help="Of relprop evaluate; repeatable.")] = _METHODS,
    unit: Annotated[int, typer.Option(metavar="N", min=1, help="Mosaics per unit of work.")] = 2,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures in each call of a method.")] = 32,
    costed: Annotated[int, typer.Option(metavar="N", min=4, help="Pictures over which the floor is found.")] = 8,
    repeats: Repeats = 3,
    many: Annotated[
        list[int], typer.Option(metavar="N", min=4, help="Small pictures over which memory is measured; repeatable.")
    ] = _COUNTS,
    small: Annotated[
        str, typer.Option(metavar="NAME", help="A timm model for these, which takes pictures of 64 pixels.")
    ] = "test_resnet",
    threads: Threads = 2,
    device: OnDevice = Device.CPU,
    tf32: Tf32 = False,
    results: Results = RESULTS,
    compare: Compare = None,
    quickly: Annotated[
        bool,
        quick(model="test_resnet", side=64, samples=8, unit=1, batch=20, costed=4, repeats=1, many=[4, 12], threads=1),
    ] = False,
) -> None:
    """Measure relprop.evaluate: speed by phase, size of its file, peak memory, cost over the floor of GAE."""
    require_whole_units(costed, samples, unit)
    before = earlier(compare, EvaluationRow, CostRow, GrowthRow)
    conditions = Conditions(device, Dtype.FLOAT32, threads, tf32)
    with conditions.in_force(), TemporaryDirectory() as folder:
        plan = open_plan(
            model, conditions, Path(folder), samples,
            weights=weights, shared=shared, methods=methods, unit=unit, batch_size=batch, side=side,
        )  # fmt: skip
        for name, kind, measure in (
            ("evaluate", EvaluationRow, partial(measure_runs, plan)),
            ("evaluate-cost", CostRow, partial(measure_costs, plan, costed, repeats, conditions)),
            ("evaluate-memory", GrowthRow, partial(measure_memory, small, methods, many, conditions)),
        ):  # each takes minutes: what is measured is written before the next begins
            report([Table(name, kind, measure())], conditions.on_machine, results, before)


@app.command(epilog="Example: python -m benchmarks stream ../shared/assets/images/imagenet1k_one_per_class")
def stream(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Pictures; by default some that mean nothing.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="A model.")] = "tf_efficientnet_lite0",
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Its weights.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="A timm model with random weights.")] = False,
    fewer: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures of the shorter run.")] = 200,
    synthetic: Annotated[
        int, typer.Option(metavar="N", min=2, help="Pictures of the longer run, where no folder is given.")
    ] = 400,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures explained at once.")] = 8,
    results: Results = RESULTS,
    compare: Compare = None,
    quickly: Annotated[bool, quick(model="test_resnet", random_weights=True, fewer=4, synthetic=40)] = False,
) -> None:
    """Explain a folder from the command line: pictures a second beside plain inference, and peak memory."""
    before = earlier(compare, StreamRow)
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, torch.get_num_threads())
    with TemporaryDirectory() as made:
        if random_weights:
            weights = Path(made, "weights.pth")
            torch.save(timm.create_model(model).state_dict(), weights)
        if folder is None:
            folder = Path(made, "pictures")
            write_pictures(folder, synthetic, 256)
        rows = measure_stream(model, weights, folder, fewer, batch)
    report([Table("stream", StreamRow, rows)], conditions.on_machine, results, before)


@app.command(epilog="Example: python -m benchmarks start --repeats 3")
def start(
    model: Annotated[list[str], typer.Option(metavar="NAME", help="A timm model; repeatable.")] = _FIRST,
    repeats: Repeats = 3,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(model=["test_resnet"], repeats=1)] = False,
) -> None:
    """Measure the first picture: processor seconds of whole processes, cached or not, and of wrong options."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, 1)
    measure = partial(measure_start, model, repeats)
    measure_or_put("start", StartRow, measure, conditions, results, compare, markdown)


@app.command(epilog="Example: python -m benchmarks throughput --model mobilenetv2_100 --samples 8 --repeats 3")
def throughput(
    model: Annotated[list[str], typer.Option(metavar="NAME", help="A timm model; repeatable.")] = _SCORED,
    samples: Annotated[int, typer.Option(metavar="N", min=8, help="Pictures, a multiple of 8.")] = 8,
    repeats: Repeats = 3,
    threads: Threads = 1,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(model=["test_resnet"], repeats=1)] = False,
) -> None:
    """Measure seconds a sample of GAE, with channels last and as released, and of Quantus on as many maps."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)

    def measure() -> list[ThroughputRow]:
        return [row for name in model for row in measure_throughput(name, samples, repeats, conditions)]

    measure_or_put("throughput", ThroughputRow, measure, conditions, results, compare, markdown)


@app.command(epilog="Example: python -m benchmarks samples --case 1000 --case 100000:256")
def samples(
    case: Annotated[
        list[str], typer.Option(metavar="SAMPLES[:SHARDS]", help="What is written, and joined; repeatable.")
    ] = _CASES,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where files are made, and removed: 20 kB a sample.")
    ] = None,
    results: Results = RESULTS,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(case=["64:2", "256:2"])] = False,
) -> None:
    """Measure the file of an evaluation: writing, memory, size, and joining shards. Rows are added to earlier ones."""
    if markdown is not None:
        put_tables("samples", results, markdown)
        return
    cases = [parse_case(text) for text in case]
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, 1)
    ledger = Ledger(results / f"samples-{conditions.on_machine}.csv", SamplesRow)
    again = {(str(count), str(shards)) for count, shards in cases}
    ledger.keep(lambda row: (row["samples"], row["shards"]) not in again)
    measure_samples(cases, ledger, folder)
    show_lines([ledger.columns, *(list(row.values()) for row in ledger.rows())])
    typer.echo(f"written: {ledger.path.name}")


@app.command(epilog="Example: python -m benchmarks workers --samples 384 --simulated 50000")
def workers(
    model: Annotated[str, typer.Option(metavar="NAME", help="A timm model for pictures of 64 pixels.")] = "test_resnet",
    samples: Annotated[int, typer.Option(metavar="N", min=4, help="Pictures of the measured runs.")] = 384,
    simulated: Annotated[int, typer.Option(metavar="N", min=4, help="Samples of the simulated run.")] = 50000,
    processes: Annotated[list[int], typer.Option(metavar="N", help="Workers that are measured, and 1.")] = _WORKERS,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(samples=8, simulated=4000, processes=[1])] = False,
) -> None:
    """Measure the efficiency of one worker and of two, and simulate those and more from measured times of shards."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, 1)
    measure = partial(measure_workers, model, samples, simulated, processes, conditions)
    measure_or_put("workers", WorkersRow, measure, conditions, results, compare, markdown)
