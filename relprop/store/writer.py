"""The one who writes a file: rows first, then the states that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relprop.store.schema import Layout, Method

Rows = slice | ArrayLike
"""Rows of the file: a slice, or indices in any order, each once."""


class EvaluationWriter:
    """Writes one file, from one thread at a time. Made by `create` or `resume`; a context manager that closes it.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from relprop.store import EvaluationWriter, Layout, Method
    """

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        config: Mapping[str, Any],
        layout: Layout,
        index: ArrayLike = (),
        *,
        methods: Iterable[Method] = (),
        versions: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Begin a file. ``index`` (N,): indices in the data set, ascending; of a stream empty, see `extend`."""
        raise NotImplementedError

    @classmethod
    def resume(cls, path: str | PathLike[str], config: Mapping[str, Any], layout: Layout) -> Self:
        """Continue a file; refuse one of another configuration, naming the keys that differ."""
        raise NotImplementedError

    @property
    def index(self) -> NDArray[np.int64]:
        """Indices of the rows in the data set, ``(N,)``."""
        raise NotImplementedError

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods in the file."""
        raise NotImplementedError

    def add_method(self, method: Method, *, overwrite: bool = False) -> None:
        """Add a method, or find it there with the same configuration; another configuration is refused."""
        raise NotImplementedError

    def extend(self, index: ArrayLike) -> NDArray[np.int64]:
        """Add rows for further samples of a stream, ascending, and return the rows."""
        raise NotImplementedError

    def sample_states(self) -> NDArray[np.uint8]:
        """Return what became of each row of the masking run, ``(N,)``, see `State`; what is not committed as well."""
        raise NotImplementedError

    def method_states(self, name: str) -> NDArray[np.uint8]:
        """Return what became of each row under a method, ``(N,)``."""
        raise NotImplementedError

    def write_samples(self, rows: Rows, arrays: Mapping[str, ArrayLike]) -> None:
        """Write rows of ``samples``, by names of `SAMPLE_FIELDS`; without ``state`` they are done."""
        raise NotImplementedError

    def write_method(self, name: str, rows: Rows, arrays: Mapping[str, ArrayLike]) -> None:
        """Write rows of a method, by names of `METHOD_FIELDS`, its metrics, and ``relevance`` as float."""
        raise NotImplementedError

    def commit(self) -> None:
        """Make everything written so far last, whatever becomes of this process."""
        raise NotImplementedError

    def finish(self) -> None:
        """Commit and mark the file complete; refuse if rows are absent."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file. What was not committed may be lost."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
