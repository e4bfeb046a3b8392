"""``relprop explain --format shards`` and ``webdataset``, once its options are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from relprop.cli.app import FAILED, say, warn
from relprop.cli.configuration import write_config
from relprop.cli.evaluating import exit_code
from relprop.cli.explaining.opening import Question
from relprop.cli.explaining.sharded.folder import ShardedFolder
from relprop.cli.explaining.sharded.running import explain_into_shards, failed_pictures
from relprop.cli.explaining.sharded.storage import Storage
from relprop.cli.explaining.sharded.work import ExplainingWork
from relprop.cli.subject import Subject


def explain_sharded(
    context: typer.Context,
    subject: Subject,
    question: Question,
    pictures: Sequence[Path],
    output: Path,
    kind: Any,
    kept: Mapping[str, Any],
    how: Mapping[str, Any],
    processes: Any,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Explain pictures into shards, and leave with the exit code that says what became of them.

    Parameters
    ----------
    context
        Of the command, whose options are written beside the results.
    subject, question, pictures
        What is explained.
    output
        The folder.
    kind, kept
        As of `Storage`; what is None is as by default.
    how
        Further fields of `ExplainingWork`.
    processes
        See `explain_into_shards`.
    quiet, overwrite
        Whether nothing but errors is said, and whether an earlier run goes.
    """
    storage = Storage(kind, **{name: value for name, value in kept.items() if value is not None})
    folder = ShardedFolder(output)
    with folder.held():
        try:
            words = explain_into_shards(
                ExplainingWork(subject, question, storage, **how),
                pictures,
                folder,
                processes=processes,
                progress=not quiet,
                overwrite=overwrite,
                at_first=lambda: write_config(output / "run.toml", context, overwrite=overwrite),
                tell_failure=warn,
            )
        except KeyboardInterrupt as signal:
            warn(f"interrupted; what {output} holds is whole, the same command goes on")
            raise typer.Exit(exit_code(signal)) from None
        if not quiet:
            say(words)
        if failed_pictures(folder):
            raise typer.Exit(FAILED)
