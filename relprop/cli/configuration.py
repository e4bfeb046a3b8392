"""Options from a file, and the options of a run as a file, with which it can be repeated."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from enum import Enum
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer

from relprop.errors import near_names
from relprop.files import written_whole
from relprop.versions import version

RENAMED = {"--labels": "--class-names", "--methods": "--method"}
"""Old spellings of options, which are taken still, and not listed."""
NOT_KEPT = {"config", "debug", "quiet", "verbose", "as_json", "overwrite", "resume", "retry"}
"""Parameters that say nothing about what a run computes."""

MOST_RUNS = 1000
"""Files of runs with other options that one folder keeps."""


def take_config(context: typer.Context, path: Path | None) -> Path | None:
    """Let what a file says be the defaults of a command.

    The file has options by their names, at its top for any command, or in a table named after one.

    Raises
    ------
    BadParameter
        The file can't be read, or names something that is no option of the command.
    """
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # what is no TOML, and no UTF-8, is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise typer.BadParameter(f"cannot read {path}: {reason}") from error
    command = context.command.name or ""
    own = content.pop(command, {})
    shared = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
    if not isinstance(own, Mapping):
        raise typer.BadParameter(f"{path}: {command} is a table of options, [{command}]")
    parameters = {_spelled(parameter): parameter for parameter in context.command.params}
    defaults: dict[str, Any] = {}
    for name, value in {**shared, **own}.items():
        new = RENAMED.get(f"--{name}", name).removeprefix("--").replace("_", "-")
        if new not in parameters or new == "config":
            raise typer.BadParameter(f"{path}: {command} has no option {name!r}{near_names(name, parameters)}")
        parameter = parameters[new]
        several = parameter.multiple or parameter.nargs == -1
        if several != isinstance(value, list) and not (several and isinstance(value, str)):
            raise typer.BadParameter(f"{path}: {name} is {'a list' if several else 'one value'}, not {value!r}")
        defaults[parameter.name or new] = [value] if several and not isinstance(value, list) else value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def write_config(path: Path, context: typer.Context, *, overwrite: bool = False) -> Path:
    """Write the options of a run beside its results; with a number in its name where another run's are there.

    Returns
    -------
    Path
        Of the file.
    """
    text = effective(context)
    places = [path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, MOST_RUNS))]
    if overwrite:
        for place in takewhile(Path.exists, places):
            place.unlink()
    free = (p for p in places if not p.exists() or p.read_text(encoding="utf-8", errors="replace") == text)
    place = next(free, path)
    with written_whole(place) as part:
        part.write_text(text, encoding="utf-8")
    return place


def effective(context: typer.Context) -> str:
    """Return the options that a command runs with as TOML, those that were not given included."""
    command = context.command.name
    lines = [
        f"# relprop {version('relprop')}, run in {json.dumps(str(Path.cwd()), ensure_ascii=False)}",
        f"# relprop {command} --config THIS.toml -o ELSEWHERE repeats the run",
        f"[{command}]",
    ]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name not in NOT_KEPT and value is not None and value not in ([], ()):
            lines.append(f"{_spelled(parameter)} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _spelled(parameter: Any) -> str:
    """Return the name of an option as the command line has it, without dashes in front."""
    long = [name for name in parameter.opts if name.startswith("--")]
    return str(long[0][2:] if long else parameter.name).replace("_", "-")


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
