"""What is stored of an explanation: its map, in which precision, and what its colours can't say."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ENDINGS = {"shards": ".h5", "webdataset": ".tar"}
"""Of the files that maps go to, by ``--format``."""


@dataclass(frozen=True)
class Storage:
    """How maps are stored.

    Parameters
    ----------
    format : {"shards", "webdataset"}
        HDF5, or tar files.
    dtype : {"float16", "float32"}
        Of a map. Those of float16 are divided by their largest magnitude, which is stored beside them as ``scale``:
        most of a map's elements are smaller than what float16 can tell from zero.
    relevance : {"map", "channels"}
        Summed over the channels, ``(H, W)``, or not, ``(C, H, W)``.
    shard_size : int
        Pictures of a shard.
    """

    format: Literal["shards", "webdataset"]
    dtype: Literal["float16", "float32"] = "float16"
    relevance: Literal["map", "channels"] = "map"
    shard_size: int = 1000

    def shard_name(self, number: int) -> str:
        """Return the name of a shard's file."""
        return f"shard-{number:06}{ENDINGS[self.format]}"


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and a class that was explained, or a picture that could not be.

    Parameters
    ----------
    key : str
        Its name among all samples of the run.
    entry : mapping
        What is told of it; of one that failed the ``file`` and the ``error``.
    content : bytes, optional
        Its map, as a ``.npy``; None of one that failed.
    """

    key: str
    entry: dict[str, Any]
    content: bytes | None

    @property
    def values(self) -> NDArray[Any]:
        """The map, ``(H, W)`` or ``(C, H, W)`` as the storage says."""
        assert self.content is not None, "a picture that failed has no map"
        found: NDArray[Any] = np.load(io.BytesIO(self.content), allow_pickle=False)
        return found


def make_sample(key: str, entry: dict[str, Any], heat: NDArray[Any], dtype: str) -> Sample:
    """Return a sample with its map, ``(H, W)`` or ``(C, H, W)``, in a precision, and what it was divided by."""
    scale = 1.0
    if dtype == "float16" and heat.size:
        largest = float(np.abs(heat).max())
        scale = largest if 0 < largest < np.inf else 1.0
    content = io.BytesIO()
    np.save(content, (heat / np.float32(scale)).astype(dtype) if scale != 1 else heat.astype(dtype))
    return Sample(key, entry | {"scale": scale}, content.getvalue())
