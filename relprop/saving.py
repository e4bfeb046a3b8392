"""Explanations as files: pictures, NumPy archives, HDF5."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.files import OutputError, written_whole
from relprop.pictures import Pixels, sheet

if TYPE_CHECKING:
    from relprop.explanation import Explanation


def save(explanation: Explanation, path: str | PathLike[str], images: Pixels | None = None) -> None:
    """Write an explanation to a ``.png``, ``.npz`` or ``.h5`` file, whole or not at all.

    Raises
    ------
    OutputError
        If the kind of file is unknown, or it can't be written.
    """
    path = Path(path)
    if path.suffix == ".png":
        figure = sheet(explanation.heatmap().cpu().double().numpy(), images)
        with written_whole(path) as part:
            figure.savefig(part, format="png")
    elif path.suffix == ".npz":
        with written_whole(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays(explanation))
    elif path.suffix in (".h5", ".hdf5"):
        with written_whole(path) as part, h5py.File(part, "w") as file:
            for name, values in arrays(explanation).items():
                file.create_dataset(name, data=values, compression="gzip", shuffle=True)
            file.attrs["rules"] = explanation.rules
            file.attrs["conservation_error"] = explanation.conservation.error
            file.attrs["lost"] = explanation.conservation.lost
    else:
        raise OutputError(f"cannot write {path}: the kinds of file are .png, .npz and .h5, not {path.suffix!r}")


def arrays(explanation: Explanation) -> dict[str, NDArray[np.generic]]:
    """Return an explanation's tensors as arrays by name, relevances of layers under ``layer:PATH``."""
    several = len(explanation.relevances) > 1
    found = {f"relevance:{k}" if several else "relevance": v for k, v in explanation.relevances.items()}
    found["output"] = explanation.output
    if explanation.target is not None:
        found["target"] = explanation.target
    for path, value in explanation.layers.items():
        parts = value if isinstance(value, list) else [value]
        found |= {f"layer:{path}" + (f"@{k}" if k else ""): part for k, part in enumerate(parts)}
    return {name: (v.float() if v.dtype.itemsize < 4 else v).cpu().numpy() for name, v in found.items()}
