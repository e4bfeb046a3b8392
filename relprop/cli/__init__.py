"""The command line: ``relprop explain``, ``check``, ``evaluate`` ...."""

from relprop.cli import analyse, cache, check, evaluate, explain, lists, report, serve  # noqa: F401  # each adds one
from relprop.cli.app import app

__all__ = ["app"]
