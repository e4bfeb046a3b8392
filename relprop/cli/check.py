"""``relprop check``: whether explanations of a model are computed correctly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relprop.cli.app import (
    DEFAULT_MODEL,
    FAILED,
    Cache,
    Config,
    Contrast,
    Debug,
    Device,
    Model,
    ModelOutput,
    Preprocessing,
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from relprop.models import Classifier


@command("Check that a model is explained correctly.", "relprop check --model tf_efficientnet_lite0 --json")
def check(
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PICTURES", help="Pictures to check on, all at once; else two of foolbox."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    trust: Trust = False,
    rules: Rules = "abslrp",
    contrast: Contrast = None,
    model_output: ModelOutput = None,
    preprocessing: Preprocessing = None,
    device: Device = None,
    explain_rules: Annotated[
        bool, typer.Option("--explain-rules", help="Also say for every operation which rule it has, and why.")
    ] = False,
    randomize: Annotated[
        bool,
        typer.Option(
            "--randomize",
            help="Also compare with maps of the model with its last layers drawn anew, and of another class.",
        ),
    ] = False,
    cache: Cache = True,
    config: Config = None,
    verbose: Verbose = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Check that a model is captured, covered by rules, computed right, conserved and stable.

    The exit code is 1 where it isn't, and where a picture can't be read; it is reported, and left out.
    """
    with one_line_errors(debug, verbose):
        subject = Subject(model, weights, preprocessing, None, device, trust, model_output)
        subject.prepare(pictures or (), cache=cache, rules=rules)
        import relprop
        from relprop.assign.rule_names import choose_rules
        from relprop.cli.choices import choose_contrast
        from relprop.errors import RelpropError
        from relprop.run.memory import memory_for
        from relprop.verification.randomize import randomize as randomize_model

        try:
            classifier = subject.load()
            x, unread = _inputs(pictures or (), classifier)
            x = x.to(classifier.device)
            with memory_for(len(x)):
                rule_set = choose_rules(rules, classifier.mean, classifier.std)
                against = choose_contrast(contrast, classifier.labels) | {"output": model_output}
                report = relprop.check(classifier.model, x, rules=rule_set, **against)
                report = replace(report, model=classifier.name, weights=classifier.origin)
                redrawn = randomize_model(classifier.model, x, rules=rule_set, **against) if randomize else None
        except RelpropError as error:
            if as_json:
                say(json.dumps({"ok": False, "problems": [str(error)]}, indent=2))
            raise
        if as_json:
            assignment = {"assignment": [row._asdict() for row in report.assignment]} if explain_rules else {}
            randomization = {} if redrawn is None else {"randomization": redrawn.as_dict()}
            say(json.dumps(report.as_dict() | {"unread": unread} | assignment | randomization, indent=2))
        else:
            pages = [*[report.explain_rules()] * explain_rules, str(report)]
            say("\n\n".join(pages if redrawn is None else [*pages, str(redrawn)]))
        if unread or not report.ok:
            raise typer.Exit(FAILED)


def _inputs(pictures: Sequence[Path], classifier: Classifier) -> tuple[Tensor, list[str]]:
    """Return pictures as the model expects them, ``(B, C, H, W)``, and which can't be read.

    Where none are given they are foolbox's, or random ones where that is not installed.
    """
    import numpy as np
    import torch

    from relprop.models import PictureError, find_pictures, sample_pictures
    from relprop.models.preprocessing import apply, bands_of

    read, unread = [], []
    for path in find_pictures(pictures) if pictures else ():
        try:
            read.append(classifier.read(path))
        except PictureError as error:
            warn(str(error))
            unread.append(str(path))
    if unread and not read:
        raise PictureError("no picture is left to check on")
    if not pictures:
        try:
            read = [classifier.read(path) for path in sample_pictures()[:2]]
        except PictureError as error:
            warn(f"random pictures are used, as {error}")
            shape = (2, 256, 256, bands_of(classifier.transform))
            read = list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    return torch.stack([apply(classifier.transform, picture, classifier.channels) for picture in read]), unread
