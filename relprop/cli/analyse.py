"""Commands that read the file of an evaluation: ``summary``, ``compare``, ``plot`` and others. They need no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from relprop.cli.app import FAILED, AsJson, Debug, command, one_line_errors, say
from relprop.cli.terminal import printable

if TYPE_CHECKING:
    from relprop.analysis import Results

File = Annotated[Path, typer.Argument(metavar="FILE", help="What relprop evaluate wrote or is writing.")]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", metavar="NAME", help="Only this method, or those that match NAME*; repeatable."),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of the bootstrap.")]
Confidence = Annotated[float, typer.Option(metavar="P", help="Of the intervals, between 0 and 1.")]
By = Annotated[str, typer.Option(metavar="SCORE", help="Which score: gae, local_consistency, contrastiveness ...")]


class _Report(Protocol):
    """What prints as text, and as JSON."""

    def as_dict(self) -> dict[str, Any]: ...


@command("Summarise an evaluation: means with intervals.", "relprop summary run.h5 --method 'absLRP*' --method random")
def summary(
    file: File,
    method: Methods = None,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    failures: Annotated[bool, typer.Option("--failures", help="List instead what failed, and why.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Summarise each method of an evaluation: means with bootstrap intervals, medians, what is missing.

    Methods marked (chance) are controls: a score means little without what they reach.
    """
    with _results(file, method, debug) as results:
        tell(results.failures() if failures else results.summary(confidence, seed), as_json)


@command(
    "Compare methods, or two runs, sample by sample.",
    "relprop compare run.h5 abslrp captum.IntegratedGradients --by contrastiveness",
)
def compare(
    file: File,
    a: Annotated[str, typer.Argument(metavar="A", help="A method; or the file of another run, of another model say.")],
    others: Annotated[
        list[str] | None, typer.Argument(metavar="B", help="The method to compare it with, or several; else all.")
    ] = None,
    method: Methods = None,
    by: By = "gae",
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare methods sample by sample: difference with its interval, Wilcoxon's signed-rank test, win rate.

    Where several are compared, p-values are adjusted for their number (Holm). Given a second file, each method (B, or
    all that both have) is compared with itself in the other run, on the samples that both have.
    """
    with _results(file, None, debug) as results:
        named = [*(others or []), *(method or [])] or None
        if not Path(a).is_file():
            if named is not None and len(named) == 1 and named[0] in results.methods:
                tell(results.compare(a, named[0], by, confidence, seed), as_json)
            else:
                tell(results.compare_all(a, named, by, confidence, seed), as_json)
            return
        with _results(Path(a), None, debug) as other:
            tell(results.compare_runs(other, named, by, confidence, seed), as_json)


@command("Draw the figures of an evaluation.", "relprop plot run.h5 -o plots --pictures holiday/")
def plot(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the PNG files go.")],
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the data set's pictures, no others are drawn. Else a terminal is asked."
        ),
    ] = None,
    by: By = "gae",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many best and worst samples are drawn.")] = 5,
    method: Methods = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw bars with intervals, every sample's LC against its C, masking curves, and the best and worst samples.

    The last are drawn for methods whose relevance maps were kept.
    """
    with _results(file, method, debug) as results:
        from relprop.analysis.plots.plot import plot as draw

        if pictures is None and not as_json:
            pictures = _agreed(results.pictures_folder)
        tell(draw(results, output, pictures=pictures, by=by, k=count, seed=seed), as_json)


def _agreed(folder: Path | None) -> Path | None:
    """Ask at a terminal whether pictures may be taken from the folder that the file names: it may be a stranger's."""
    if folder is None or not folder.is_dir() or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    return folder if typer.confirm(f"The file names {printable(str(folder))}: draw pictures from there?") else None


@command("Write an evaluation as CSV, Parquet or netCDF.", "relprop export run.h5 -o scores.csv")
def export(
    file: File,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="A .csv or .parquet table, or .nc for labelled arrays."),
    ] = None,
    virelay: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.yaml|OUT.h5",
            help="A ViRelAy project, or its attributions alone, of one method whose maps were kept.",
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the data set's pictures, for a ViRelAy project."),
    ] = None,
    method: Methods = None,
    maps: Annotated[bool, typer.Option("--maps", help="Put maps, masks and outputs into OUT.nc, too.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write an evaluation as CSV, Parquet, netCDF, or for ViRelAy: whole files or none."""
    with _results(file, method, debug) as results:
        from relprop.analysis.exports import export as write
        from relprop.analysis.records import AnalysisError
        from relprop.analysis.virelay import export_virelay

        if (output is None) == (virelay is None):
            raise AnalysisError("say what to write: -o OUT.csv, .parquet or .nc, or --virelay OUT.yaml or OUT.h5")
        if virelay is not None:
            tell(export_virelay(results, virelay, pictures=pictures), as_json)
        elif output is not None:
            tell(write(results, output, maps), as_json)


@command("Read all of an evaluation, and name what is damaged.", "relprop validate run.h5")
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="What relprop evaluate wrote.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare every byte of files with their checksums, and say which samples, methods and scores are damaged.

    Files whose writer was killed, and those of format 1, have no checksums: they are read, and said to be unchecked.
    """
    with one_line_errors(debug):
        from relprop.store import survey

        found = [survey(path) for path in files]
        if as_json:
            say(json.dumps([one.as_dict() for one in found], indent=2))
        else:
            say("\n".join(map(str, found)))
    if not all(one.sound for one in found):
        raise typer.Exit(FAILED)


@contextmanager
def _results(path: Path, methods: list[str] | None, debug: bool) -> Iterator[Results]:
    """Open a file and select methods; what goes wrong becomes one line."""
    with one_line_errors(debug):
        from relprop.analysis import Results

        with Results(path) as results:
            yield results.select(methods=methods)


def tell(found: _Report, as_json: bool) -> None:
    """Print what was found, as text or as JSON."""
    say(json.dumps(found.as_dict(), indent=2, allow_nan=False) if as_json else str(found))
