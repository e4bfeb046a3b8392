"""What is done while writes fail, without PyTorch; the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relprop.hdf5_images import hdf5_written_whole

NAME = "out.h5"


def image(folder: Path) -> None:
    """Write an HDF5 file in one go."""
    random = np.random.default_rng(0)
    with hdf5_written_whole(folder / NAME) as file:
        for name, shape in (("relevance", (2, 3, 32, 32)), ("output", (2, 1000)), ("target", (2,))):
            values = random.random(shape).astype(np.float32)
            data = file.create_dataset(name, data=values, compression="gzip", compression_opts=1, shuffle=True)
            data.attrs["description"] = f"values of {name}"
