"""Errors of a model, or of its name."""

from __future__ import annotations

from relprop.errors import RelpropError


class ModelError(RelpropError, ValueError):
    """A model that can't be made or run, or that is no classifier of pictures."""


class UnknownModelError(ModelError, LookupError):
    """A model name that stands for nothing: no architecture, no file, no function."""
