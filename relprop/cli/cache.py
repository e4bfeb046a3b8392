"""``relprop cache``: the captured graphs that are kept on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from relprop.cli.app import Debug, command, one_line_errors, say


def use_cache(on: bool) -> None:
    """Keep captured graphs for the next run, unless the user or the environment says otherwise."""
    from relprop.tracing.disk.folder import cache, folder

    cache(on and (folder(default=True) or False))


@command("Show the cache of captured models, or clear it.", "relprop cache --clear")
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all that is kept.")] = False, debug: Debug = False
) -> None:
    """Show where captured models are kept, so that the next run starts sooner, and how many; or remove them.

    RELPROP_CACHE=DIR names another folder, RELPROP_CACHE=0 switches the cache off.
    """
    with one_line_errors(debug):
        from relprop.tracing.disk.folder import clear_cache, entries, folder

        where = folder(default=True)
        if where is None:
            say("the cache is off (RELPROP_CACHE=0)")
        elif clear:
            say(f"{clear_cache(where)} files removed from {where}")
        else:
            sizes = [file.stat().st_size for file in entries(where)]
            say(f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, in {where}")
