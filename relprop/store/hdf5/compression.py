"""Compression of large data sets by gzip or zstd."""

from __future__ import annotations

from typing import Any

import h5py

from relprop.extras import extra
from relprop.store.errors import FormatError
from relprop.store.layout import Layout

ZSTD = 32015
"""The filter's number, registered with the HDF Group."""
_WORD = {h5py.h5z.FILTER_DEFLATE: "gzip", ZSTD: "zstd"}


def filters(layout: Layout) -> dict[str, Any]:
    """Return the keyword arguments of ``create_dataset`` for what is compressed.

    Raises
    ------
    MissingExtraError
        If the compression needs a package that is not installed.
    """
    if layout.compression is None:
        return {}
    if layout.compression == "gzip":
        return {"compression": "gzip", "compression_opts": layout.level, "shuffle": True}
    require_zstd("compression with zstd")
    return {"compression": ZSTD, "compression_opts": (layout.level,), "shuffle": True}


def compression_of(data: h5py.Dataset) -> tuple[str | None, int]:
    """Return compression and level of a data set."""
    plist = data.id.get_create_plist()
    for position in range(plist.get_nfilters()):
        code, _, values, _ = plist.get_filter(position)
        if code in _WORD:
            return _WORD[code], values[0]
        if code != h5py.h5z.FILTER_SHUFFLE:
            raise FormatError(f"{data.name} is compressed by HDF5 filter {code}, which no version of the format has")
    return None, 0


def require_readable(file: h5py.File) -> None:
    """Have the filters of a file at hand, or say which extra to install."""
    if compression_of(file["samples/steps"])[0] == "zstd":
        require_zstd(f"{file.filename}, compressed with zstd,")


def require_zstd(purpose: str) -> None:
    """Have the filter at hand, or say which extra to install."""
    if not h5py.h5z.filter_avail(ZSTD):
        with extra("zstd", purpose):
            import hdf5plugin  # noqa: F401 - registers its filters when imported
