"""Maps that were computed before, read from a file."""

from __future__ import annotations

import hashlib
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from relprop.errors import first_line
from relprop.evaluation.methods.base import Method, MethodError, Request
from relprop.gae.states import PICTURE
from relprop.store import StoreError
from relprop.store.hdf5.opening import open_hdf5

NAMES = ("relevance", "attribution", "attributions", "maps")
"""What a file's array of maps may be called, the first that is there is taken; else the only one."""


class Precomputed(Method):
    """Maps of the pictures of a data set, ``(N, C, H, W)``, ``(N, 1, H, W)`` or ``(N, H, W)``, row i of sample i.

    There are none of masked states and mosaics, so robustness, contrastiveness and GAE are NaN.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz`` or ``.h5``. Maps of ``.npy`` and ``.h5`` are read as they are needed, those of a ``.npz`` at
        once.
    key : str, optional
        Which array of the file.

    Raises
    ------
    MethodError
        The file can't be read, or has no such array.
    """

    pictures_only = "precomputed maps can't be asked about masked states and mosaics"

    def __init__(self, path: str | PathLike[str], key: str | None = None) -> None:
        self.path = Path(path)
        self._rows, name = _open(self.path, key)
        if self._rows.ndim not in (3, 4):
            raise MethodError(f"{self.path}: maps are (N, C, H, W) or (N, H, W), not {tuple(self._rows.shape)}")
        self.config = {"precomputed": self.path.name, "array": name, "sha256": _file_sha256(self.path)}
        self.description = f"maps from {self.path.name}"

    def maps(self, request: Request) -> Tensor:
        """Look up the pictures' maps, ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``."""
        if any(state != PICTURE for state in request.state):
            raise MethodError(self.pictures_only)
        last = max(request.index)
        if last >= len(self._rows):
            raise MethodError(f"{self.path} has {len(self._rows)} maps, none of sample {last}")
        found = np.stack([np.asarray(self._rows[index]) for index in request.index])
        return torch.from_numpy(found).to(request.x.device)


def _open(path: Path, key: str | None) -> tuple[Any, str]:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r"), path.name
        if path.suffix == ".npz":
            archive = np.load(path)
            name = _choose(path, key, [entry for entry in archive.files if archive[entry].ndim >= 3], archive.files)
            return archive[name], name
        if path.suffix in (".h5", ".hdf5"):
            file = open_hdf5(path, "r")
            arrays: list[str] = []
            file.visititems(lambda at, item: arrays.append(at) if isinstance(item, h5py.Dataset) else None)
            name = _choose(path, key, [at for at in arrays if file[at].ndim >= 3], arrays)
            return file[name], name
    except (OSError, RuntimeError, ValueError, EOFError, StoreError, zipfile.BadZipFile) as error:
        if isinstance(error, MethodError):
            raise
        raise MethodError(f"cannot read maps {path}: {first_line(error)}") from error
    raise MethodError(f"maps are in a .npy, .npz or .h5 file, not {path.name}")


def _choose(path: Path, key: str | None, candidates: list[str], present: list[str]) -> str:
    if key is not None:
        if key not in present:
            raise MethodError(f"{path} has no array {key!r}; it has {', '.join(present) or 'none'}")
        return key
    named = [name for name in NAMES if name in candidates]
    if not named and len(candidates) != 1:
        raise MethodError(f"{path}: say which array holds the maps, key=NAME; it has {', '.join(present) or 'none'}")
    return (named or candidates)[0]


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
