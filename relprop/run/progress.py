"""Progress bars, shown in a terminal or a notebook and nowhere else."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_hidden: ContextVar[bool] = ContextVar("relprop_bars_hidden", default=False)

DELAY = 2.0
"""Seconds before a bar appears: what is done sooner needs none."""


def progress_bar(total: int | None, unit: str, *, delay: float = 0.0, **options: Any) -> Any:
    """Return a bar of tqdm; it shows nothing where standard error is neither a terminal nor a notebook's."""
    with warnings.catch_warnings(action="ignore"):  # without ipywidgets a bar is text, which needs no remark
        from tqdm.auto import tqdm

    return tqdm(total=total, unit=unit, delay=delay, disable=not bars_are_seen(), **options)


def bars_are_seen() -> bool:
    """Whether a bar of this block would be seen: in a terminal, or in a notebook."""
    return not _hidden.get() and sys.stderr is not None and (sys.stderr.isatty() or in_notebook())


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook; a program that talks to kernels imports their package, too."""
    ipython: Any = sys.modules.get("IPython")  # whoever is in a notebook has imported it
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


@contextmanager
def no_bars() -> Iterator[None]:
    """Let nothing in this block show a bar of its own: it has one already, or wants none."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)
