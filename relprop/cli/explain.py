"""``relprop explain``: pictures in, maps and an index out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from relprop.cli.app import (
    DEFAULT_MODEL,
    FAILED,
    INTERRUPTED,
    Cache,
    ClassNames,
    Config,
    Contrast,
    Debug,
    Device,
    Model,
    ModelOutput,
    Preprocessing,
    Probability,
    Quiet,
    Rules,
    Trust,
    Verbose,
    Weights,
    command,
    one_line_errors,
    say,
    warn,
)
from relprop.cli.evaluating import parse_spread
from relprop.cli.subject import Subject
from relprop.cli.words import split_all
from relprop.extras import extra

LOG = logging.getLogger("relprop")
FORMATS = ("png", "npz", "h5")
"""Kinds of file that hold the maps of one picture."""
SHARDED = ("shards", "webdataset")
"""Kinds of file that hold the maps of many: HDF5, tar."""


class MapType(StrEnum):
    """Precision of stored maps."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Relevance(StrEnum):
    """Which maps shards keep."""

    MAP = "map"
    CHANNELS = "channels"


def _formats(values: list[str] | None) -> list[str]:
    found = list(dict.fromkeys(split_all(values))) or ["png"]
    for name in found:
        if name not in FORMATS + SHARDED:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, FORMATS + SHARDED))}.")
        if name in SHARDED and len(found) > 1:
            raise typer.BadParameter(f"{name} goes with no other format: run once for each.")
    return found


def _crops(text: str | None) -> str | None:
    if text is not None and text != "tiles" and not (text.isdecimal() and int(text)):
        raise typer.BadParameter(f"{text!r} is not tiles, nor a number of crops along the shorter side.")
    return text


@command(
    "Draw relevance maps of pictures.",
    "relprop explain cat.jpg holiday/ --model tf_efficientnet_lite0 --target top3 -o out",
)
def explain(
    context: typer.Context,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="PICTURES", help="Picture files, or folders of them.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    trust: Trust = False,
    rules: Rules = "abslrp",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS|INDEX|topN",
            help="Class explained, by name or number, or the N most probable; else the predicted one. Repeatable: "
            "classes side by side.",
        ),
    ] = None,
    contrast: Contrast = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Draw the relevance at this module too (or a glob of them); repeatable."),
    ] = None,
    crops: Annotated[
        str | None,
        typer.Option(
            metavar="N|tiles",
            callback=_crops,
            help="Explain overlapping crops of each picture, N along its shorter side or in the model's resolution "
            "(tiles), for one class, and join the maps at the picture's size.",
        ),
    ] = None,
    class_names: ClassNames = None,
    model_output: ModelOutput = None,
    probability: Probability = None,
    preprocessing: Preprocessing = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Explanations computed at once.")] = 8,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the program first: minutes, which pay off for many pictures.")
    ] = False,
    device: Device = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="png|npz|h5|shards|webdataset",
            callback=_formats,
            help="What is written for each picture; repeatable, or png,npz. Of very many pictures: HDF5 (shards) or "
            "tar files (webdataset) of many maps each. [default: png]",
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Pictures of a shard. [default: 1000]")
    ] = None,
    map_type: Annotated[
        MapType | None,
        typer.Option(metavar="float16|float32", help="Of maps in shards; float16 with a scale. [default: float16]"),
    ] = None,
    relevance: Annotated[
        Relevance | None,
        typer.Option(metavar="map|channels", help="Maps in shards summed over the channels, or not. [default: map]"),
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(
            metavar="N|gpus|auto",
            help="Spread shards over N processes, one for each GPU, or what this machine has room for.",
        ),
    ] = None,
    html: Annotated[
        bool,
        typer.Option("--html", help="Make a page of all of it too, DIR/index.html, to look at or to send."),
    ] = False,
    sample: Annotated[bool, typer.Option(help="Where no pictures are given, take the 20 that foolbox carries.")] = True,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where maps and index.jsonl go.")
    ] = Path("out"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the results that DIR/index.jsonl lists; else it is continued.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare gradients of the captured model with autograd's: seconds.")
    ] = False,
    cache: Cache = True,
    config: Config = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Draw relevance maps: which pixels matter more (red) or less (blue) for the class than for the others.

    Results lie in DIR as the pictures lie in their folders. One line of DIR/index.jsonl tells for each explanation its
    file, target, probability, conservation error and the files written; --config DIR/run.toml repeats the run. A
    picture that can't be read, or whose class is --contrast itself, is reported, skipped, and makes the exit code 1.
    With --format shards or webdataset the same command goes on with a run that was stopped, and DIR/index.parquet is
    the index.
    """
    channels = relevance is Relevance.CHANNELS
    _refuse_beside_crops(crops, html=html, layers=layer or (), targets=target or (), channels=channels)
    kind = format[0] if format and format[0] in SHARDED else None
    _refuse_with_format(
        kind,
        of_shards={"shard-size": shard_size, "map-type": map_type, "relevance": relevance, "processes": processes},
        of_pictures={"html": html, "layer": layer},
    )
    spread = parse_spread(None, processes, None)
    with one_line_errors(debug, verbose):
        subject = Subject(model, weights, preprocessing, class_names, device, trust, model_output)
        subject.prepare(pictures or (), cache=cache, rules=rules, targets=target or (), output=output)
        if kind is not None:
            with extra("analysis", f"--format {kind}, whose index is Parquet,"):
                import pyarrow.parquet  # noqa: F401 - told before a model is loaded
        from relprop.cli.configuration import write_config
        from relprop.cli.explaining.folder import OutputFolder, mirrored
        from relprop.cli.explaining.opening import Question, open_explainer
        from relprop.cli.explaining.output import ResultFiles
        from relprop.cli.explaining.page import page_facts
        from relprop.cli.explaining.stream import Run
        from relprop.pages.explanations import ExplanationPage

        question = Question(
            rules,
            targets=tuple(target or ()),
            contrast=contrast,
            layers=tuple(layer or ()),
            model_output=model_output,
            probability=None if probability is None else probability.value,
            batch_size=batch_size,
            compile=compile,
        )
        cut = None if crops is None else _count_crops(crops)
        paths = _find(pictures or [], output, sample)
        if kind is not None:
            from relprop.cli.explaining.sharded.command import explain_sharded

            kept: dict[str, str | int | None] = {"dtype": map_type and map_type.value, "shard_size": shard_size}
            kept["relevance"] = relevance and relevance.value
            work = {"crops": cut, "verify": verify and cut is None, "quiet": not verbose, "cache": cache}
            explain_sharded(
                context=context,
                subject=subject,
                question=question,
                pictures=paths,
                output=output,
                kind=kind,
                kept=kept | {"shard_size": shard_size},
                how=work,
                processes=spread.processes,
                quiet=quiet,
                overwrite=overwrite,
            )
            return
        with OutputFolder(output, paths, overwrite=overwrite) as folder:
            classifier = subject.load()
            LOG.info("model %s on %s, weights: %s", classifier.name, classifier.device, classifier.origin)
            explainer, choice = open_explainer(classifier, question)
            page = ExplanationPage(output / "index.html", len(paths) * choice.count) if html else None
            results = ResultFiles(folder, mirrored(paths, pictures or []), classifier, rules, format or ["png"], page)
            run = Run(classifier, explainer, choice, results, quiet, verify and cut is None, cut)
            folder.at_first = lambda: write_config(output / "run.toml", context, overwrite=overwrite)
            try:
                run.explain(paths, batch_size)
            except KeyboardInterrupt:
                if page is not None:
                    page.write(page_facts(classifier, rules))
                warn(f"interrupted after {run.explained} of {len(paths)} pictures; what {folder.index} lists is whole")
                raise typer.Exit(INTERRUPTED) from None
            if page is not None:
                page.write(page_facts(classifier, rules))
        if not quiet:
            say(run.summary())
        if run.failed:
            raise typer.Exit(FAILED)


def _count_crops(text: str) -> int | Literal["tiles"]:
    return "tiles" if text == "tiles" else int(text)


def _refuse_beside_crops(
    crops: str | None, *, html: bool, layers: Sequence[str], targets: Sequence[str], channels: bool
) -> None:
    """Refuse what has no meaning for a map that is joined."""
    several = len(targets) > 1 or any(text.strip().startswith("top") and text.strip() != "top1" for text in targets)
    others = (
        ("--html", html),
        ("--layer", bool(layers)),
        ("several --target", several),
        ("--relevance channels", channels),
    )
    for option, given in others:
        if crops is not None and given:
            raise typer.BadParameter(f"--crops joins one map of each picture: leave {option} out")


def _refuse_with_format(
    kind: str | None, *, of_shards: Mapping[str, object], of_pictures: Mapping[str, object]
) -> None:
    """Refuse options that have no meaning for the files that are written."""
    for option, given in (of_shards if kind is None else of_pictures).items():
        if given and kind is None:
            raise typer.BadParameter(f"--{option} is of --format {' and '.join(SHARDED)}")
        if given:
            raise typer.BadParameter(f"--{option} does not go with --format {kind}: leave it out")


def _find(pictures: list[Path], output: Path, sample: bool) -> list[Path]:
    """Return the pictures to explain; results of earlier runs, which may lie inside a folder, are none."""
    from relprop.cli.explaining.folder import results_among
    from relprop.files import OutputError
    from relprop.models import PictureError, find_pictures, sample_pictures

    folders = [path for path in pictures if path.is_dir()]
    if any(path.resolve().is_relative_to(output.resolve()) for path in folders):
        raise OutputError(f"-o {output}: results would mix with the pictures; name another folder")
    paths = find_pictures(pictures, skip=[output]) if pictures else sample_pictures() if sample else []
    earlier = results_among(paths) - set(pictures) if folders else set()
    if earlier:
        warn(f"left out: {len(earlier)} results of an earlier run, as the index above them lists")
    paths = [path for path in paths if path not in earlier]
    if not paths:
        raise PictureError("no pictures to explain: name files or folders, or leave --sample on")
    return paths
