"""Errors of a run that is spread."""

from relprop.errors import RelpropError


class EngineError(RelpropError, RuntimeError):
    """A run can't be spread, or its workers died."""
