"""``relprop app``: a page on this machine where pictures are dropped on a model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from relprop.cli.app import (
    DEFAULT_MODEL,
    Cache,
    ClassNames,
    Debug,
    Device,
    Model,
    ModelOutput,
    Preprocessing,
    Trust,
    Weights,
    command,
    one_line_errors,
    say,
)
from relprop.cli.subject import Subject

LOCALHOST = "127.0.0.1"


@command("Serve a page to drop pictures on.", "relprop app --model tf_efficientnet_lite0")
def app(
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    trust: Trust = False,
    class_names: ClassNames = None,
    model_output: ModelOutput = None,
    preprocessing: Preprocessing = None,
    device: Device = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Who can open the page: by default this machine alone.")
    ] = LOCALHOST,
    port: Annotated[int, typer.Option(metavar="N", min=1, help="Of the page.")] = 7860,
    largest: Annotated[int, typer.Option(metavar="MB", min=1, help="Larger pictures are refused.")] = 20,
    cache: Cache = True,
    debug: Debug = False,
) -> None:
    """Serve a page: drop a picture, see what the model says and which pixels make it say so; Ctrl-C ends it.

    Class, contrast, rule set and layer are chosen there; two rule sets stand side by side. The page gives the PNG and
    the Python lines that make the same.
    """
    with one_line_errors(debug):
        subject = Subject(model, weights, preprocessing, class_names, device, trust, model_output)
        subject.prepare(cache=cache)
        from relprop.cli.serving.answers import Respondent
        from relprop.cli.serving.interface import make_page, require_gradio, serve

        require_gradio()
        classifier = subject.load()
        with TemporaryDirectory(prefix="relprop-") as folder:
            page = make_page(Respondent(classifier, {"name": model} | subject.options(), Path(folder)))
            say(f"http://{host}:{port}, Ctrl-C ends it" + ("" if host == LOCALHOST else "; others can open it"))
            serve(page, host, port, largest * 1_000_000)
