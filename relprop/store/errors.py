"""Errors of files of evaluations."""

from __future__ import annotations

from os import PathLike, fspath

from relprop.errors import RelpropError


class StoreError(RelpropError):
    """Base of all errors about files of evaluations; what can't be written is a `relprop.files.OutputError`."""


class MissingFileError(StoreError, FileNotFoundError):
    """There is no file at the path."""

    __str__ = Exception.__str__  # an OSError says its errno first, and here there is none


class FormatError(StoreError, ValueError):
    """The file is not one of an evaluation: foreign, truncated, damaged, or of a newer format."""


class DamageError(FormatError):
    """What was read of a file is not what was written to it."""


class BusyError(StoreError, OSError):
    """Another program, or this one, has the file open."""


class ConfigurationError(StoreError, ValueError):
    """The file was begun with another configuration than the one given."""


class MergeError(StoreError, ValueError):
    """The files are not the shards of one evaluation."""


def no_cut(file: str | PathLike[str], there: int, planned: int) -> ConfigurationError:
    """Return the error of a run that shall have fewer or other samples than its file has."""
    return ConfigurationError(
        f"{fspath(file)} has {there} samples, and shall have {planned} now: a run can be extended, not cut. "
        f"Pass a limit of {there} or more, or choose another file"
    )
