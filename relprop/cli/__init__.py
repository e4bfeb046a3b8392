"""The command line: ``relprop explain``, ``check``, ``evaluate`` ...."""

from relprop.cli import analyse, check, evaluate, explain, lists, report, serve  # noqa: F401  # each adds its commands
from relprop.cli.app import app

__all__ = ["app"]
