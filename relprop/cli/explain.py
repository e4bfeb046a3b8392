"""``relprop explain``: pictures in, maps and an index out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from relprop.cli.subject import Subject
from relprop.cli.words import split_all

LOG = logging.getLogger("relprop")
FORMATS = ("png", "npz", "h5")
"""Kinds of file that hold the maps of one picture."""


def _formats(values: list[str] | None) -> list[str]:
    found = list(dict.fromkeys(split_all(values))) or ["png"]
    for name in found:
        if name not in FORMATS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, FORMATS))}.")
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
            metavar="png|npz|h5",
            callback=_formats,
            help="What is written for each picture; repeatable, or png,npz. [default: png]",
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
    """
    _refuse_beside_crops(crops, html=html, layers=layer or (), targets=target or ())
    with one_line_errors(debug, verbose):
        subject = Subject(model, weights, preprocessing, class_names, device, trust, model_output)
        subject.prepare(pictures or (), cache=cache, rules=rules, targets=target or (), output=output)
        from relprop.assign.rule_names import choose_rules
        from relprop.cli.choices import choose_contrast, choose_target
        from relprop.cli.configuration import write_config
        from relprop.cli.explaining.folder import OutputFolder, mirrored
        from relprop.cli.explaining.output import Results
        from relprop.cli.explaining.page import page_facts
        from relprop.cli.explaining.stream import Run
        from relprop.errors import TargetError
        from relprop.explainer import Explainer
        from relprop.pages.explanations import ExplanationPage

        cut = None if crops is None else _count_crops(crops)
        paths = _find(pictures or [], output, sample)
        with OutputFolder(output, paths, overwrite=overwrite) as folder:
            classifier = subject.load()
            LOG.info("model %s on %s, weights: %s", classifier.name, classifier.device, classifier.origin)
            rule_set = choose_rules(rules, classifier.mean, classifier.std)
            choice = choose_target(target or [], classifier.labels)
            against = choose_contrast(contrast, classifier.labels)
            if against.get("contrast") in choice.classes:
                raise TargetError(f"--contrast {contrast} is --target {contrast} itself: name another class")
            explainer = Explainer(
                classifier.model,
                rules=rule_set,
                layers=split_all(layer),
                output=model_output,
                batch_size=batch_size,
                compile=compile,
                probability=None if probability is None else probability.value,
                channel_axis=1,
                **against,
            )
            page = ExplanationPage(output / "index.html", len(paths) * choice.count) if html else None
            results = Results(folder, mirrored(paths, pictures or []), classifier, rules, format or ["png"], page)
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


def _refuse_beside_crops(crops: str | None, *, html: bool, layers: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse what has no meaning for a map that is joined."""
    several = len(targets) > 1 or any(text.strip().startswith("top") and text.strip() != "top1" for text in targets)
    for option, given in (("--html", html), ("--layer", bool(layers)), ("several --target", several)):
        if crops is not None and given:
            raise typer.BadParameter(f"--crops joins one map of each picture: leave {option} out")


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
