"""The command line: ``relprop explain``, ``check``, ``rules`` and ``models``."""

from relprop.cli import check, explain, lists  # noqa: F401  # each adds its commands
from relprop.cli.app import app

__all__ = ["app"]
