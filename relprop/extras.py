"""Optional packages: where one is missing, the error names the extra that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relprop.errors import RelpropError


class MissingExtraError(RelpropError, ImportError):
    """Something needs a package that only an extra of relprop installs."""


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Import packages of an extra inside of this block.

    Parameters
    ----------
    name : str
        The extra, as pyproject.toml calls it.
    purpose : str
        What needs them, as the subject of a sentence.

    Raises
    ------
    MissingExtraError
        If one is not installed; it names the package and how to get it.

    Examples
    --------
    >>> with extra("analysis", "a summary"):
    ...     import no_such_package
    Traceback (most recent call last):
    relprop.extras.MissingExtraError: a summary needs no_such_package: pip install "relprop[analysis]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise MissingExtraError(f'{purpose} needs {package}: pip install "relprop[{name}]"') from error
