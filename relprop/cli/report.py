"""``relprop report``: evaluations as one page to send. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relprop.cli.analyse import By, Confidence, Methods, Seed, tell
from relprop.cli.app import AsJson, Debug, command, one_line_errors


@command("Make a page of evaluations, to send.", "relprop report run.h5 -o report.html --pictures holiday/")
def report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="What relprop evaluate wrote or is writing; shards of one run are joined."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PAGE", help="The page, one file.")] = Path(
        "report.html"
    ),
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the data set's pictures; no others are shown."),
    ] = None,
    method: Methods = None,
    by: By = "gae",
    reference: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Compare the others with this method, if not with the best one."),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=0, help="How many samples the page holds at most.")] = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a page: summary, paired differences, plots, configuration, and samples to filter, sort and open.

    It is one file of at most 60 MB that any browser opens from disk, without a network.
    """
    with one_line_errors(debug):
        from relprop.pages.report import report as write

        tell(
            write(
                files,
                output,
                pictures=pictures,
                methods=method,
                by=by,
                reference=reference,
                samples=samples,
                confidence=confidence,
                seed=seed,
            ),
            as_json,
        )
