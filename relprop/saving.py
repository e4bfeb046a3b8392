"""Results as files: pictures, NumPy archives, HDF5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from relprop.files import OutputError, written_whole


def save(
    path: str | PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
    draw: Callable[[], Figure],
) -> None:
    """Write a ``.png`` of a figure, or a ``.npz`` or ``.h5`` of arrays, whole or not at all.

    Parameters
    ----------
    path : path
        Its suffix says which.
    arrays : mapping
        What archives hold, by name.
    attributes : mapping
        Further numbers and words for the root of a ``.h5``.
    draw : callable
        Makes the figure.

    Raises
    ------
    OutputError
        If the kind of file is unknown, or it can't be written.
    """
    path = Path(path)
    if path.suffix == ".png":
        figure = draw()
        with written_whole(path) as part:
            figure.savefig(part, format="png")
    elif path.suffix == ".npz":
        with written_whole(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    elif path.suffix in (".h5", ".hdf5"):
        with written_whole(path) as part, h5py.File(part, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values, compression="gzip", shuffle=True)
            file.attrs.update(attributes)
    else:
        raise OutputError(f"cannot write {path}: the kinds of file are .png, .npz and .h5, not {path.suffix!r}")
