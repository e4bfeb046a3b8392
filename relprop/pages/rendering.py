"""Pages as one file: filled in from templates, everything from outside escaped, no network, no script but ours."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relprop.extras import extra
from relprop.files import OutputError, written_whole
from relprop.versions import version

if TYPE_CHECKING:
    from jinja2 import Environment

_PIECES = 64
"""Pieces of a page that are written at once."""


def write_page(path: Path, template: str, scripts: tuple[str, ...], context: Mapping[str, Any]) -> None:
    """Fill in a template and write the page: the whole file or none.

    Parameters
    ----------
    path : Path
        Of the page.
    template : str
        Its name.
    scripts : tuple of str
        Names of the scripts it runs, in order.
    context : mapping
        What the template shows. Iterators are read while the page is written.

    Raises
    ------
    OutputError
        If the file can't be written.
    MissingExtraError
        If jinja2 is not installed.
    """
    environment = require_extra()
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    script = "\n".join(_text(name) for name in scripts)
    style = _text("style.css")
    pieces = environment.get_template(template).stream(
        **context,
        style=_inert(style),
        script=_inert(script),
        policy=content_policy(style, script),
        relprop_version=version("relprop"),
    )
    pieces.enable_buffering(_PIECES)
    with written_whole(path) as part, part.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(pieces)


def content_policy(style: str, script: str) -> str:
    """Return the policy of a page: no network at all, one style and one script, images it holds itself."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def require_extra() -> Environment:
    """Return what fills in templates.

    Raises
    ------
    MissingExtraError
        If jinja2 is not installed.
    """
    with extra("report", "a page"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    return Environment(
        loader=PackageLoader("relprop.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _inert(text: str) -> Any:
    """Mark our own style or script as what needs no escaping: it must not end its element."""
    from markupsafe import Markup

    assert "</s" not in text.lower(), "a style or script would end early"
    return Markup(text)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(name: str) -> str:
    return files("relprop.pages").joinpath("templates", name).read_text(encoding="utf-8")
