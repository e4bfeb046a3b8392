"""The sub-commands ``speed``, ``floor``, ``scale`` and ``choices``: time and memory of explanations."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from benchmarks.commands.app import (
    RESULTS,
    Batch,
    Compare,
    InDtype,
    Markdown,
    OnDevice,
    Repeats,
    Results,
    Table,
    Tf32,
    Threads,
    TimmModels,
    app,
    earlier,
    measure_or_put,
    quick,
    report,
)
from benchmarks.conditions import Conditions, Device, Dtype
from benchmarks.readme import put_tables
from benchmarks.speed.choices import ChoiceRow, measure_choices
from benchmarks.speed.compare import SpeedRow, compare_speed
from benchmarks.speed.floor import FloorRow, OperationRow, find_floor
from benchmarks.speed.jobs import COMPILED, JOBS, graph_jobs, rule_jobs
from benchmarks.speed.scale import ScaleRow, points
from benchmarks.speed.scale import scale as measure_scale
from benchmarks.speed.trials import Trial

_MODELS = ["resnet50", "vit_base_patch16_224"]
_SCALED = ["resnet50", "vit_tiny_patch16_224"]
_BATCHES, _SIDES = [1, 2, 4, 8, 16], [128, 192, 256, 320]
_DEPTHS = [
    *(f"resnet{depth}" for depth in (18, 34, 50, 101)),
    *(f"vit_tiny_patch16_224:depth={depth}" for depth in (6, 12, 24)),
]
_SMALL = "test_resnet"

Compile = Annotated[bool, typer.Option("--compile", help="Compile the relevance program too.")]


@app.command(epilog="Example: python -m benchmarks speed --models resnet50 --models vgg16 --repeats 9 --peers")
def speed(
    models: TimmModels = _MODELS,
    batch: Batch = 4,
    repeats: Repeats = 7,
    threads: Threads = 2,
    device: OnDevice = Device.CPU,
    dtype: InDtype = Dtype.FLOAT32,
    tf32: Tf32 = False,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PARAM=VALUE,...]", help="Explain under this rule set too, as epsilon-plus-flat; repeatable."
        ),
    ] = None,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Replay the relevance program as a CUDA graph too.")
    ] = False,
    compiled: Compile = False,
    peers: Annotated[bool, typer.Option("--peers", help="Let captum, zennit, autoLRP and LXT take turns too.")] = False,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(models=[_SMALL], batch=2, repeats=2, threads=1)] = False,
) -> None:
    """Measure explanations in units of one plain input gradient: time in one process, memory in one each."""
    if markdown is not None:
        put_tables("speed", results, markdown)
        return
    before = earlier(compare, SpeedRow)
    conditions = Conditions(device, dtype, threads, tf32)
    with conditions.in_force():
        replayed = graph_jobs(conditions) if cuda_graph else {}
        jobs = {**JOBS, **rule_jobs(rules or ()), **(COMPILED if compiled else {}), **replayed}
        rows = [
            row for name in models for row in compare_speed(Trial(name, batch), repeats, conditions, jobs, peers=peers)
        ]
    # Beside them the C library keeps more memory, so that the gradient takes less time: a condition of its own.
    name = "speed-peers" if peers else "speed"
    report([Table(name, SpeedRow, rows)], conditions.on_machine, results, before)


@app.command(epilog="Example: python -m benchmarks floor --models resnet50 --batch 8 --repeats 9")
def floor(
    models: TimmModels = _MODELS,
    batch: Batch = 4,
    repeats: Repeats = 7,
    threads: Threads = 2,
    device: OnDevice = Device.CPU,
    dtype: InDtype = Dtype.FLOAT32,
    tf32: Tf32 = False,
    compiled: Compile = False,
    results: Results = RESULTS,
    compare: Compare = None,
    quickly: Annotated[bool, quick(models=[_SMALL, "test_vit"], batch=2, repeats=2, threads=1)] = False,
) -> None:
    """Count the products of each job, time them alone, and find what the rest of an explanation goes to."""
    before = earlier(compare, FloorRow, OperationRow)
    conditions = Conditions(device, dtype, threads, tf32)
    with conditions.in_force():
        found = [find_floor(Trial(name, batch), repeats, conditions, compiled=compiled) for name in models]
    tables = [
        Table("floor", FloorRow, [row for rows, _ in found for row in rows]),
        Table("floor-operations", OperationRow, [row for _, rows in found for row in rows]),
    ]
    report(tables, conditions.on_machine, results, before)


@app.command(epilog="Example: python -m benchmarks scale --models resnet50 --batches 1 --batches 16 --sides 448")
def scale(
    models: TimmModels = _SCALED,
    batches: Annotated[list[int], typer.Option(metavar="N", min=1, help="Batch sizes; repeatable.")] = _BATCHES,
    sides: Annotated[list[int], typer.Option(metavar="N", min=8, help="Sides of the pictures; repeatable.")] = _SIDES,
    depths: Annotated[
        list[str], typer.Option(metavar="NAME[:OPTION=VALUE]", help="Models that differ in depth; repeatable.")
    ] = _DEPTHS,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures at once where that isn't varied.")] = 4,
    repeats: Repeats = 5,
    threads: Threads = 2,
    device: OnDevice = Device.CPU,
    dtype: InDtype = Dtype.FLOAT32,
    tf32: Tf32 = False,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[
        bool,
        quick(models=[_SMALL], batches=[1, 4], sides=[64], depths=["test_vit:depth=2"], batch=2, repeats=1, threads=1),
    ] = False,
) -> None:
    """Measure how time and memory of an explanation grow with the batch, the pictures and the depth."""
    conditions = Conditions(device, dtype, threads, tf32)
    listed = points(models, batch, batches, sides, depths)
    measure = partial(measure_scale, listed, repeats, conditions)
    measure_or_put("scale", ScaleRow, measure, conditions, results, compare, markdown)


@app.command(epilog="Example: python -m benchmarks choices --repeats 15")
def choices(
    repeats: Repeats = 15,
    threads: Threads = 1,
    results: Results = RESULTS,
    compare: Compare = None,
    markdown: Markdown = None,
    quickly: Annotated[bool, quick(repeats=1)] = False,
) -> None:
    """Measure what the code does because it is faster, each beside the plain way."""
    conditions = Conditions(Device.CPU, Dtype.FLOAT32, threads)
    measure_or_put(
        "choices", ChoiceRow, partial(measure_choices, repeats, conditions), conditions, results, compare, markdown
    )
