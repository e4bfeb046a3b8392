"""The command line: the script ``relprop``, and ``python -m relprop`` where that is not installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C prints one line, even while it is still being imported."""
    try:
        from relprop.cli.garbage import collect_rarely

        collect_rarely()
        from relprop.cli import app

        app(prog_name="relprop")
    except KeyboardInterrupt:
        sys.stderr.write("relprop: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
