"""The folder of captured graphs: which one, and how much may lie there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

VARIABLE = "RELPROP_CACHE"
"""The environment variable: ``1`` for the user's cache folder, ``0`` for no cache, or the path of a folder."""
MAX_BYTES = 64 << 20
"""What all entries may take; those used longest ago go first."""
SUFFIX = ".graph"
"""Of a graph's file."""
RECORD = ".verified"
"""Of the record that its gradients were verified."""

_chosen: Path | bool | None = None


def cache(where: bool | str | os.PathLike[str] = True) -> Path | None:
    """Keep captured graphs on disk, so that a new process explains the same model without tracing it again.

    It is off until this is called or the environment variable ``RELPROP_CACHE`` is set; the command line has it on.
    A graph is found again where the model's code, structure, settings and hooks, the shapes of the inputs and the
    versions of Python, PyTorch and relprop are the same. Weights are not kept, so other weights find it, too. Before
    it is used the graph is run once and compared with the model. Graphs with a target that is a function, and models
    with parts that only this process knows, are captured every time.

    Parameters
    ----------
    where : bool or path
        True for the user's cache folder, False for no cache, or a folder.

    Returns
    -------
    Path or None
        The folder in use from now on.

    Examples
    --------
    >>> import relprop
    >>> relprop.cache(False)
    """
    global _chosen
    _chosen = where if isinstance(where, bool) else Path(where)
    return folder()


def folder(*, default: bool = False) -> Path | None:
    """Return the folder in use, or None; it need not exist.

    Parameters
    ----------
    default : bool
        Whether there is a cache where neither the process nor its environment says so.
    """
    chosen: Path | bool | None = _chosen
    if chosen is None:
        named = os.environ.get(VARIABLE)
        chosen = {None: default, "": default, "0": False, "1": True}.get(named, Path(named or ""))
    if isinstance(chosen, bool):
        return default_folder() if chosen else None
    return chosen


def default_folder() -> Path:
    """Return the folder for this user: ``~/.cache/relprop`` on Linux."""
    return Path(platformdirs.user_cache_dir("relprop", appauthor=False)) / "graphs"


def clear_cache(where: Path) -> int:
    """Remove all entries of a folder; return how many there were."""
    count = 0
    for file in entries(where):
        with suppress(OSError):
            file.unlink()
            count += 1
    return count


def entries(where: Path) -> list[Path]:
    """Return the files of a folder that are ours, those used last in front."""
    found = []
    with suppress(OSError):
        for file in where.iterdir():
            if file.suffix in (SUFFIX, RECORD):
                with suppress(OSError):
                    found.append((file.stat().st_mtime, file))
    return [file for _, file in sorted(found, reverse=True)]


def shrink(where: Path) -> None:
    """Remove what was used longest ago, until the rest is as small as it has to be."""
    total = 0
    for file in entries(where):
        with suppress(OSError):
            total += file.stat().st_size
            if total > MAX_BYTES:
                file.unlink()
