"""The command line: the script ``relprop``, and ``python -m relprop`` where that is not installed."""

from __future__ import annotations

import sys

from relprop.garbage import collect_rarely


def main() -> None:
    """Run the command line; Ctrl-C prints one line, even while it is still being imported."""
    collect_rarely()
    try:
        from relprop.cli import app

        app(prog_name="relprop")
    except KeyboardInterrupt:
        sys.stderr.write("relprop: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
