"""Attribution databases of ViRelAy, the viewer of clustered explanations."""

from __future__ import annotations

import math
import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.analysis.exports import Written, check_place
from relprop.analysis.records import KEEP_MAPS, AnalysisError, MissingMapsError
from relprop.files import written_whole
from relprop.store import State
from relprop.store.hdf5.disk_space import MARGIN, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import telling_output_errors

if TYPE_CHECKING:
    from relprop.analysis.results import Results

BLOCK = 64
"""Maps in memory at once."""


def export_virelay(results: Results, path: str | PathLike[str], method: str | None = None) -> Written:
    """Write the maps of a method as a ViRelAy attribution database: the whole file or none.

    It has, for the N samples that are done, ``attribution`` float32 ``(N, C, H, W)`` (one channel if maps were kept
    summed), ``prediction`` float32 ``(N, classes)``, the model's outputs, ``label`` uint16 ``(N,)`` and ``index``
    uint32 ``(N,)``, the indices in the data set.

    Parameters
    ----------
    results : Results
        A file of an evaluation, or a selection from it.
    path : path
        Of the database.
    method : str, optional
        Whose maps; may be left out where one method is selected, or one alone has maps.

    Raises
    ------
    MissingMapsError
        If its maps were not kept.
    AnalysisError
        If no sample is done, several methods have maps, or a label or index exceeds its type.
    OutputError
        If the file can't be written, or is the one that is read.
    """
    path = Path(path)
    check_place(results, path)
    if method is None:
        with_maps = [name for name in results.methods if results.has_maps(name)]
        if len(with_maps) > 1:
            raise AnalysisError(f"a ViRelAy database holds one method, say which: {', '.join(with_maps)}")
        if not with_maps:
            raise MissingMapsError(f"{results.path} holds no relevance maps: {KEEP_MAPS}")
        (method,) = with_maps
    chosen = results[method]
    done = chosen[(chosen.state() == State.DONE) & (chosen.samples.state == State.DONE)]
    if not len(done):
        raise AnalysisError(f"{method} is done on none of the {len(results)} samples selected of {results.path}")
    shape = (len(done), *_with_channels(done[:1].relevance()).shape[1:])
    samples = done.samples
    unlabelled = samples.label < 0
    labels = np.where(unlabelled, samples.target, samples.label)
    if labels.max() > np.iinfo(np.uint16).max or samples.index.max() > np.iinfo(np.uint32).max:
        raise AnalysisError("ViRelAy keeps labels as uint16 and indices as uint32, these samples have larger ones")
    with written_whole(path) as part:
        with telling_output_errors(path, new=True), h5py.File(part, "w", locking=False) as file, writing(file) as held:
            _reserve(file, 4 * (math.prod(shape) + len(done) * (len(results.class_names) + 64)))
            columns = {"label": labels.astype(np.uint16), "index": samples.index.astype(np.uint32)}
            held += [file.create_dataset(name, data=values) for name, values in columns.items()]
            attribution = file.create_dataset("attribution", shape, np.float32, chunks=(1, *shape[1:]))
            prediction = file.create_dataset("prediction", (len(done), len(results.class_names)), np.float32)
            held += [attribution, prediction]
            for start in range(0, len(done), BLOCK):
                block, rows = done[start : start + BLOCK], slice(start, start + BLOCK)
                attribution[rows] = _with_channels(block.relevance())
                prediction[rows] = block.output()
        trim(part)
    holds = f"ViRelAy attribution database of {method}: {' x '.join(map(str, shape))} maps"
    remark = ""
    if unlabelled.any():
        remark = f"{int(unlabelled.sum())} samples have no label; the class explained takes its place"
    return Written(str(path), holds, remark)


def _with_channels(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    return maps if maps.ndim == 4 else maps[:, None]


def _reserve(file: h5py.File, size: int) -> None:
    """Take room for so many bytes of values, where the system can: HDF5 crashes on a disk that is full half way."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.id.get_vfd_handle(), 0, size + MARGIN)
