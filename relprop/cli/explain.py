"""``relprop explain``: pictures in, maps and an index out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from relprop.cli.app import (
    DEFAULT_MODEL,
    FAILED,
    INTERRUPTED,
    ClassNames,
    Contrast,
    Debug,
    Device,
    Model,
    ModelOutput,
    Preprocessing,
    Probability,
    Rules,
    Trust,
    Weights,
    command,
    one_line_errors,
    say,
    warn,
)


class Format(StrEnum):
    """Kinds of file that hold the maps of one picture."""

    PNG = "png"
    NPZ = "npz"
    H5 = "h5"


@command(
    "Draw relevance maps of pictures.",
    "relprop explain cat.jpg holiday/ --model tf_efficientnet_lite0 --target top3 -o out",
)
def explain(
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="PICTURES", help="Picture files, or folders of them.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    trust: Trust = False,
    rules: Rules = "abslrp",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS|INDEX|topN",
            help="Class explained, by name or number, or the N most probable side by side; else the predicted one.",
        ),
    ] = None,
    contrast: Contrast = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Draw the relevance at this module too (or a glob of them); repeatable."),
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
        list[Format] | None,
        typer.Option(metavar="png|npz|h5", help="What is written for each picture; repeatable. [default: png]"),
    ] = None,
    html: Annotated[
        bool,
        typer.Option("--html", help="Make a page of all of it too, DIR/index.html, to look at or to send."),
    ] = False,
    sample: Annotated[bool, typer.Option(help="Where no pictures are given, take the 20 that foolbox carries.")] = True,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where maps and index.jsonl go.")
    ] = Path("out"),
    debug: Debug = False,
) -> None:
    """Draw relevance maps: which pixels matter more (red) or less (blue) for the class than for the others.

    One line of DIR/index.jsonl tells for each explanation its file, target, probability, conservation error and
    the files written. A picture that can't be read, or whose class is --contrast itself, is reported, skipped, and
    makes the exit code 1.
    """
    with one_line_errors(debug):
        from relprop.cli.choices import choose_contrast, choose_rules, choose_target
        from relprop.cli.explaining.output import Results, results_among
        from relprop.cli.explaining.page import page_facts
        from relprop.cli.explaining.stream import Run
        from relprop.errors import TargetError
        from relprop.explainer import Explainer
        from relprop.files import OutputError
        from relprop.models import PictureError, find_pictures, load_classifier, sample_pictures
        from relprop.pages.explanations import ExplanationPage

        if pictures and any(path.is_dir() and path.resolve().is_relative_to(output.resolve()) for path in pictures):
            raise OutputError(f"-o {output}: results would mix with the pictures; name another folder")
        # Results of an earlier run may lie inside a folder that is explained.
        paths = find_pictures(pictures, skip=[output]) if pictures else sample_pictures() if sample else []
        earlier = results_among(paths) if any(path.is_dir() for path in pictures or []) else set()
        if earlier:
            warn(f"left out: {len(earlier)} results of an earlier run, as the index beside them lists")
            paths = [path for path in paths if path not in earlier]
        if not paths:
            raise PictureError("no pictures to explain: name files or folders, or leave --sample on")
        choose_rules(rules)  # a typo is told before a model is loaded
        classifier = load_classifier(
            model,
            weights,
            preprocessing=preprocessing,
            labels=class_names,
            device=device,
            trust=trust,
            output=model_output,
        )
        rule_set, choice = (
            choose_rules(rules, classifier.mean, classifier.std),
            choose_target(target, classifier.labels),
        )
        against = choose_contrast(contrast, classifier.labels)
        if choice.index is not None and choice.index == against.get("contrast"):
            raise TargetError(f"--contrast {contrast} is --target {target} itself: name another class")
        explainer = Explainer(
            classifier.model,
            rules=rule_set,
            layers=layer or (),
            output=model_output,
            batch_size=batch_size,
            compile=compile,
            probability=None if probability is None else probability.value,
            **against,
        )
        page = ExplanationPage(output / "index.html", len(paths) * choice.top) if html else None
        kinds = tuple(kind.value for kind in format or [Format.PNG])
        with Results(output, paths, classifier, rules, kinds, page) as results:
            run = Run(classifier, explainer, choice, results)
            try:
                run.explain(paths, batch_size)
            except KeyboardInterrupt:
                if page is not None:
                    page.write(page_facts(classifier, rules))
                warn(f"interrupted after {run.explained} of {len(paths)} pictures; what {results.index} lists is whole")
                raise typer.Exit(INTERRUPTED) from None
            if page is not None:
                page.write(page_facts(classifier, rules))
        say(run.summary())
        if run.failed:
            raise typer.Exit(FAILED)
