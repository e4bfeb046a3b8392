"""Pictures for nodes that do not see their folder: they are sent with the shard that needs them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from relprop.evaluation.data.folders import Listing

Content = bytes | None
"""What a file holds; None where it could not be read at home, either."""

_copies: dict[int, str | None] = {}
"""Of the shard that this process works on: where the pictures lie that were sent with it."""


class NotSent(BaseException):
    """A picture is not at hand, and is to be sent. It is no failure of the sample: nothing on the way may catch it."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


@dataclass(frozen=True)
class SentPicture(PathLike[str]):
    """The path of a picture at home, which leads to its copy where one was sent.

    Parameters
    ----------
    index : int
        Which picture of the data set it is.
    path : str
        Its path at home. Messages name it, so that they are the same everywhere.
    """

    index: int
    path: str

    def __str__(self) -> str:
        return self.path

    def __fspath__(self) -> str:
        if self.index in _copies:
            return _copies[self.index] or self.path
        if os.path.exists(self.path):
            return self.path
        raise NotSent(self.index)


def may_be_sent(listing: Listing) -> Listing:
    """Return a listing of which the pictures may be sent."""
    paths = [SentPicture(index, os.fspath(path)) for index, path in enumerate(listing.paths)]
    return replace(listing, paths=paths)


def read_contents(paths: Sequence[str | PathLike[str]], indices: Iterable[int]) -> dict[int, Content]:
    """Read the files of some pictures."""
    found: dict[int, Content] = {}
    for index in indices:
        try:
            found[index] = Path(paths[index]).read_bytes()
        except OSError:  # as for a run at home it is a sample that failed
            found[index] = None
    return found


@contextmanager
def laid_out(contents: Iterable[Mapping[int, Content]], folder: Path) -> Iterator[None]:
    """Write pictures that were sent to a folder, from where they are read inside of this block."""
    for part in contents:
        for index, content in part.items():
            _copies[index] = None if content is None else str(folder / str(index))
            if content is not None:
                (folder / str(index)).write_bytes(content)
    try:
        yield
    finally:
        _copies.clear()
