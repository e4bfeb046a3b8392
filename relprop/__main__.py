"""The command line: the script ``relprop``, and ``python -m relprop`` where that is not installed."""

from __future__ import annotations

import gc
import sys

OBJECTS = 100_000
"""New objects after which cycles are searched for. Imports make a million that stay: with Python's 700 the search takes
a second."""


def main() -> None:
    """Run the command line; Ctrl-C prints one line, even while it is still being imported."""
    gc.set_threshold(OBJECTS, *gc.get_threshold()[1:])
    try:
        from relprop.cli import app

        app(prog_name="relprop")
    except KeyboardInterrupt:
        sys.stderr.write("relprop: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
