"""Files that grow by lines, as an index or a log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relprop.files.whole import OutputError


class LineFile:
    """A file to whose end JSON objects are added, a line each; nothing waits in memory to be written in closing.

    Parameters
    ----------
    path : Path
        Of the file, which is made where there is none.

    Raises
    ------
    OutputError
        It can't be written; `add` raises it, too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def add(self, values: Mapping[str, Any]) -> None:
        """Write a line."""
        left = memoryview(f"{json.dumps(values)}\n".encode())
        try:
            while left:  # a system may write less than is requested
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._file.close()

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self._path}: {error.strerror or error}")
