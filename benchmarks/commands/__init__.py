"""The command line of the benchmarks: one sub-command a measurement."""

from benchmarks.commands import coverage, pages, quality, runs, speed
from benchmarks.commands.app import app

__all__ = ["app", "coverage", "pages", "quality", "runs", "speed"]
