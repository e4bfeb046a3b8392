"""The application, options that several commands have, and errors of one line."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from relprop.cli.completion import complete_contrast, complete_model, complete_rules
from relprop.cli.configuration import RENAMED, take_config
from relprop.cli.terminal import printable
from relprop.errors import RelpropError, RelpropWarning
from relprop.versions import versions

FAILED, MISUSED, TERMINATED, INTERRUPTED = 1, 2, 75, 130
"""Exit codes: something went wrong, the command line can't be understood, SIGTERM, Ctrl-C.

That of SIGTERM is EX_TEMPFAIL of sysexits: what was done is kept, and the same command goes on.
"""

DEFAULT_MODEL = "tf_efficientnet_lite0"

# BadParameter is public, its base is not: an option or argument that can't be understood.
_UsageError: Any = typer.BadParameter.__base__


ORDER = (
    "explain",
    "app",
    "check",
    "evaluate",
    "summary",
    "compare",
    "plot",
    "report",
    "export",
    "merge",
    "validate",
    "rules",
    "methods",
    "metrics",
    "models",
    "cache",
)
"""The commands as help lists them: the first ones that people use come first."""

F = TypeVar("F", bound=Callable[..., None])


class _OneLineUsage(TyperGroup):
    """Commands in the order of use, whose misuse is one line too."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            code = super().main(*args, **extra | {"standalone_mode": False})
        except _UsageError as error:
            command = error.ctx.command_path if error.ctx else "relprop"
            words = error.format_message().rstrip(".").replace("Value error, ", "")
            warn(f"{words}{'' if words.endswith('?') else '.'} See {command} --help")
            code = MISUSED
        sys.exit(code or 0)


class _Command(TyperCommand):
    """A command whose help has metavars alone: some versions of typer add Python's types, and braces."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {name for parameter in self.params for name in parameter.opts}
        for place, word in enumerate(args[: args.index("--")] if "--" in args else args):
            name, equals, value = word.partition("=")
            if name not in options and RENAMED.get(name) in options:
                args[place] = f"{RENAMED[name]}{equals}{value}"
        return super().parse_args(ctx, args)

    def get_help(self, ctx: Any) -> str:
        text = re.sub(r"\{([A-Z]+)\}", r"\1", super().get_help(ctx))
        return re.sub(r"^(  [A-Z]+) (<\S+>)", lambda line: line[1] + " " * (1 + len(line[2])), text, flags=re.MULTILINE)


app = typer.Typer(
    cls=_OneLineUsage,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(summary: str, example: str) -> Callable[[F], F]:
    """Add a function as a command, with its line in the list of commands and the example below its help."""
    return app.command(cls=_Command, short_help=summary, epilog=f"Example: {example}")


def _tell_versions(wanted: bool) -> None:
    if wanted:
        say("\n".join(f"{name} {version}" for name, version in versions().items()))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_tell_versions,
            help="Show the versions of relprop and of the libraries it uses.",
        ),
    ] = False,
) -> None:
    """Show by relevance propagation which pixels made a model say what it says."""
    if context.invoked_subcommand is None:
        say(context.get_help())


class ProbabilityLink(StrEnum):
    """What makes probabilities of an output."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    OUTPUT = "output"


Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=complete_model,
        help="A timm or torchvision classifier, FILE.pt2, FILE.onnx, or package.module:function for one's own.",
    ),
]
Trust = Annotated[bool, typer.Option("--trust", help="Load a .pt2 that can run code of its maker when it is loaded.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights: .safetensors or .pth.")]
Rules = Annotated[
    str,
    typer.Option(
        metavar="NAME[:PARAM=VALUE,...]",
        autocompletion=complete_rules,
        help="Rule set, see relprop rules; abslrp:delta=0.02 sets one.",
    ),
]
Contrast = Annotated[
    str | None,
    typer.Option(
        metavar="rest|log-odds|none|CLASS",
        autocompletion=complete_contrast,
        help="What the class is compared with: all others (rest), what the model confuses it with (log-odds), one "
        "class, or nothing (none); else as the rule set has it.",
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option("--class-names", metavar="FILE", help="Names of the classes: one a line, or JSON, if not ImageNet's."),
]
Preprocessing = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Prepare pictures as this timm or torchvision model does, if not as --model."),
]
ModelOutput = Annotated[
    str | None,
    typer.Option(
        "--model-output", metavar="NAME", help="The output with the classes, where a model returns several: 1.scores."
    ),
]
Probability = Annotated[
    ProbabilityLink | None,
    typer.Option(
        metavar="softmax|sigmoid|output",
        help="What makes probabilities of the output, for titles, if not what the model's graph tells.",
    ),
]
Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1, mps ...")]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep captured models on disk, so that the next run starts sooner.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead, for machines.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=take_config,
        help="Take options from this file, in which names are those of options; the command line goes first.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and warnings.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also say what takes how long, and what libraries log.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]


@contextmanager
def one_line_errors(debug: bool, verbose: bool = False) -> Iterator[None]:
    """Turn whatever goes wrong into one line on stderr and an exit code; ``debug`` shows the stack trace."""
    try:
        with _logged() if verbose else nullcontext() if debug else _quiet():
            yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except (RelpropError, ImportError) as error:  # a plug-in that can't be imported says which it is
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            fail("this command needs PyTorch, which is not installed: pip install torch")
        fail(error.spell(_as_option) if isinstance(error, RelpropError) else str(error))
    except Exception as error:  # the last resort: nobody should meet a stack trace unasked
        if debug:
            raise
        fail(f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)")


_OPTIONS = {
    "baseline": "--baseline",
    "batch_size": "--batch-size",
    "contrast": "--contrast",
    "limit": "--limit",
    "output": "--model-output",
    "layers": "--layer",
    "overwrite": "--overwrite",
    "per_class": "--per-class",
    "pictures": "--pictures",
    "resume": "--resume",
    "trust": "--trust",
    "labels": "--truth",
    "unit": "--unit",
}
_VALUES = {
    "None": "none",
    '"labels.csv" or False': "CSV, or none",
    '"photos/"': "DIR",
    "[...]": "PATH",
    "...": "NAME",
    '"rest"': "rest",
    "True": "",
}


def _as_option(name: str, value: str) -> str:
    """Write an option of a Python function as the command line takes it, or say that only Python has it."""
    if name in _OPTIONS:
        return f"{_OPTIONS[name]} {_VALUES.get(value, value)}".rstrip()
    return f"{name}={value} (in Python alone)"


@contextmanager
def _logged() -> Iterator[None]:
    """Show what relprop and libraries log, on stderr."""
    handler, root = logging.StreamHandler(), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries have to say to developers off the screen; users get one line."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # heeded once OpenCV is imported, which few commands need
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", RelpropWarning)
            warnings.showwarning = lambda message, *where: warn(str(message))
            yield
    finally:
        logging.disable(before)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say on one line of stderr what is wrong and leave with an exit code."""
    warn(message)
    raise typer.Exit(code)


def warn(message: str) -> None:
    """Say something on one line of stderr."""
    say(f"relprop: {one_line(message)}", err=True)


def say(text: str, *, err: bool = False) -> None:
    """Print a text, which may hold names and messages of strangers, so that it steers no terminal."""
    typer.echo(printable(text), err=err)


def one_line(message: str) -> str:
    """Join the lines of a message."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = lines[0] if lines else ""
    for line in lines[1:]:
        text += (" " if text.endswith((":", ";", ",")) else "; ") + line
    return text
