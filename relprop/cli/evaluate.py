"""``relprop evaluate``: methods scored over a folder of pictures, into an HDF5 file."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from relprop.cli.app import (
    DEFAULT_MODEL,
    FAILED,
    AsJson,
    Cache,
    ClassNames,
    Config,
    Debug,
    Device,
    Model,
    ModelOutput,
    Preprocessing,
    Quiet,
    Trust,
    Verbose,
    Weights,
    command,
    one_line_errors,
    say,
    warn,
)
from relprop.cli.completion import complete_method
from relprop.cli.evaluating import Loading, exit_code, is_begun, join_shards, parse_colour, parse_spread, run_evaluation
from relprop.cli.subject import Subject
from relprop.cli.words import split_all


class Target(StrEnum):
    """Which class is explained."""

    PREDICTION = "prediction"
    LABEL = "label"


class Protocol(StrEnum):
    """Which GAE."""

    GAE = "gae"
    RELEASED = "released"


class Relevance(StrEnum):
    """Which maps are kept."""

    NONE = "none"
    MAP = "map"
    CHANNELS = "channels"


class Compression(StrEnum):
    """Of what is large in the file."""

    GZIP = "gzip"
    ZSTD = "zstd"
    NONE = "none"


DEFAULT_METHODS = "abslrp,random,constant,centre"

_EXAMPLE = (
    "relprop evaluate pictures/ --model tf_efficientnet_lite0 "
    "-m abslrp,captum.IntegratedGradients:n_steps=8,random -o run.h5"
)


@command("Score attribution methods on a folder of pictures.", _EXAMPLE)
def evaluate(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="A folder of pictures; else the 20 that foolbox carries."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    trust: Trust = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME[:OPTION=VALUE,...],...",
            autocompletion=complete_method,
            help="Rule sets, captum.NAME, grad-cam.NAME, zennit.NAME, attention-rollout, random, constant, centre, "
            f"maps:path=FILE; relprop methods lists all. Repeatable. [default: {DEFAULT_METHODS}]",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file of scores.")] = Path(
        "run.h5"
    ),
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,...", help="Beside GAE; relprop metrics lists them. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with FILE, perhaps with further methods.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="In resuming do again what methods failed on.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N|auto",
            help="Do part I of N, counted from 0; relprop merge joins them. auto: as Slurm or torchrun says.",
        ),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure of a method.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="N pictures alone, by the seed; with --resume more extend FILE.",
        ),
    ] = None,
    per_class: Annotated[int | None, typer.Option(metavar="N", min=1, help="N pictures of each class alone.")] = None,
    target: Annotated[
        Target, typer.Option(metavar="prediction|label", help="Class that is explained.")
    ] = Target.PREDICTION,
    protocol: Annotated[
        Protocol,
        typer.Option(metavar="gae|released", help="GAE as defined, or as the authors' code has it (needs labels)."),
    ] = Protocol.GAE,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV|none",
            help="Labels: columns file and class_index, if subfolders don't say them; none: no labels.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Mosaics and all that is random follow from it.")] = 0,
    unit: Annotated[int, typer.Option(metavar="N", min=1, help="Mosaics of four pictures worked on at once.")] = 2,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Explanations computed at once.")] = 32,
    baseline: Annotated[
        str,
        typer.Option(metavar="VALUE[/VALUE/VALUE]", help="Colour of masked pixels, in the model's normalised scale."),
    ] = "0",
    relevance: Annotated[
        Relevance, typer.Option(metavar="none|map|channels", help="Keep the maps of the pictures in FILE.")
    ] = Relevance.NONE,
    compression: Annotated[
        Compression, typer.Option(metavar="gzip|zstd|none", help="Of masks and maps in FILE.")
    ] = Compression.GZIP,
    class_names: ClassNames = None,
    model_output: ModelOutput = None,
    preprocessing: Preprocessing = None,
    device: Device = None,
    workers: Annotated[int, typer.Option(metavar="N", min=0, help="Processes that read pictures.")] = 0,
    processes: Annotated[
        str | None,
        typer.Option(
            metavar="N|gpus|auto",
            help="Spread the run over N processes, one for each GPU, or what this machine has room for.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="ray[://HOST:PORT]",
            help="Spread the run over a cluster of Ray, as many processes at once as --processes says [auto].",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Add a line of JSON a minute: how far the run is, and its mean GAE."),
    ] = None,
    cache: Cache = True,
    config: Config = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score attribution methods by GAE, each picture's masks and scores into FILE as they come.

    What is in FILE survives whatever happens; --resume goes on, and --config FILE.toml repeats the run. A picture that
    can't be read and a sample on which a method fails are marked in FILE, reported, and make the exit code 1.
    """
    spread, colour = parse_spread(shard, processes, engine), parse_colour(baseline)
    with one_line_errors(debug, verbose):
        subject = Subject(model, weights, preprocessing, class_names, device, trust, model_output)
        subject.prepare([data], cache=cache)
        from relprop.cli.configuration import write_config
        from relprop.evaluation.methods import check_name, split_names
        from relprop.evaluation.metrics import Metrics

        scores = split_all(metrics)
        Metrics(scores)
        names = [name for text in method or [DEFAULT_METHODS] for name in split_names(text)]
        for name in names:  # a typo is an error before a model is loaded
            check_name(name)
        loading = Loading(subject, data, tuple(names), truth, _labels_for(target, protocol))
        spread, output = spread.place(output)
        options_file = output.with_name(f"{output.name}.toml")
        try:
            found = run_evaluation(
                loading,
                spread,
                output,
                quiet=not verbose,
                resume=resume,
                overwrite=overwrite,
                progress=not quiet,
                log=log,
                seed=seed,
                unit=unit,
                batch_size=batch_size,
                baseline=colour,
                target=target.value,
                protocol=protocol.value,
                metrics=scores,
                relevance=False if relevance is Relevance.NONE else relevance.value,
                compression=None if compression is Compression.NONE else compression.value,
                retry=retry,
                fail_fast=fail_fast,
                workers=workers,
                limit=limit,
                per_class=per_class,
            )
        except KeyboardInterrupt as signal:
            kept = "nothing was done yet"
            if is_begun(output):
                write_config(options_file, context, overwrite=overwrite)
                kept = f"what {output} holds is whole, --resume goes on"
            warn(f"interrupted; {kept}")
            raise typer.Exit(exit_code(signal)) from None
        write_config(options_file, context, overwrite=overwrite)
        if as_json or not quiet:
            say(json.dumps(asdict(found), indent=2, default=str) if as_json else str(found))
        if found.failed:
            raise typer.Exit(FAILED)


@command("Join the files of relprop evaluate --shard.", "relprop merge run.h5.shards -o run.h5")
def merge(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD", help="The files of all shards of one run, or their folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file of the whole run.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    debug: Debug = False,
) -> None:
    """Join the files of relprop evaluate --shard into that of the run that was not cut."""
    with one_line_errors(debug):
        say(join_shards(shards, output, overwrite=overwrite))


def _labels_for(target: Target, protocol: Protocol) -> str:
    """Return what needs the labels of pictures, as the subject of a sentence; empty if nothing does."""
    if target is Target.LABEL:
        return "--target label would explain"
    return "--protocol released rates mosaics by" if protocol is Protocol.RELEASED else ""
