"""What goes wrong where a run is spread."""

from relprop.errors import RelpropError


class EngineError(RelpropError, RuntimeError):
    """A run can't be spread, or those who worked on it died."""
