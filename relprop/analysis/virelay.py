"""Attributions and projects of ViRelAy, the viewer of clustered explanations."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.analysis.exports import Written, check_place
from relprop.analysis.plots.data_pictures import as_seen, find_picture
from relprop.analysis.records import KEEP_MAPS, AnalysisError, MissingMapsError, Samples
from relprop.files import written_whole
from relprop.pictures import Pixels
from relprop.pictures.tiles import scaled
from relprop.store import State
from relprop.store.hdf5.disk_space import MARGIN, trim
from relprop.store.hdf5.handles import writing
from relprop.store.hdf5.opening import as_output_error

if TYPE_CHECKING:
    from relprop.analysis.results import Results

PROJECT_SUFFIXES = (".yaml", ".yml")
STRATEGIES = {"prediction": "predicted_label", "label": "true_label"}
"""What ViRelAy calls the class that was explained."""
BLOCK = 64
"""Maps in memory at once."""


def export_virelay(
    results: Results,
    path: str | PathLike[str],
    method: str | None = None,
    pictures: str | PathLike[str] | NDArray[np.uint8] | None = None,
) -> Written:
    """Write the maps of a method for ViRelAy: a project that it opens, or the attribution database alone.

    The database has, for the N samples that are done, ``attribution`` float32 ``(N, C, H, W)`` (one channel if maps
    were kept summed), ``prediction`` float32 ``(N, classes)``, the model's outputs, ``label`` uint16 ``(N,)`` and
    ``index`` uint32 ``(N,)``, the indices in the data set. A project ``NAME.yaml`` has beside it this database as
    ``NAME.attributions.h5``, whose ``index`` then counts its own samples, ``NAME.dataset.h5`` with the pictures as the
    model saw them, ``data`` uint8 ``(N, H, W, 3)``, and ``label``, and ``NAME.labels.json`` with the names of the
    classes. Each file is written whole or not at all, the project itself last. Clusters and embeddings are made of
    the database by CoRelAy, and named in the project by hand.

    Parameters
    ----------
    results : Results
        A file of an evaluation, or a selection from it.
    path : path
        Of the project, ``.yaml`` or ``.yml``, or with another suffix of the database.
    method : str, optional
        Whose maps; may be left out where one method is selected, or one alone has maps.
    pictures : path or ndarray, optional
        Of a project: the folder of the data set's pictures, or all pictures as they went into the model's
        preparation, uint8 ``(data set, H, W, 3)``.

    Raises
    ------
    MissingMapsError
        If its maps were not kept.
    AnalysisError
        If no sample is done, several methods have maps, or a label or index exceeds its type; or a project's pictures
        are not given, or are not there.
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
    is_project = path.suffix.lower() in PROJECT_SUFFIXES
    place = path.with_suffix(".attributions.h5") if is_project else path
    index, whole = samples.index, 0
    if is_project:
        index, size = np.arange(len(done)), (shape[-2], shape[-1])
        shown = _show_pictures(results, samples, pictures, size)
        whole = _write_dataset(path.with_suffix(".dataset.h5"), labels, size, shown)
    with written_whole(place) as part:
        with as_output_error(place, new=True), h5py.File(part, "w", locking=False) as file, writing(file) as held:
            _reserve(file, 4 * (math.prod(shape) + len(done) * (len(results.class_names) + 64)))
            columns = {"label": labels.astype(np.uint16), "index": index.astype(np.uint32)}
            held += [file.create_dataset(name, data=values) for name, values in columns.items()]
            attribution = file.create_dataset("attribution", shape, np.float32, chunks=(1, *shape[1:]))
            prediction = file.create_dataset("prediction", (len(done), len(results.class_names)), np.float32)
            held += [attribution, prediction]
            for start in range(0, len(done), BLOCK):
                block, rows = done[start : start + BLOCK], slice(start, start + BLOCK)
                attribution[rows] = _with_channels(block.relevance())
                prediction[rows] = block.output()
        trim(part, place, new=True)
    if is_project:
        _write_project(path, results, method)
    holds = (
        f"ViRelAy {'project' if is_project else 'attribution database'} of {method}: {' x '.join(map(str, shape))} maps"
    )
    remarks = []
    if unlabelled.any():
        remarks.append(f"{int(unlabelled.sum())} samples have no label; the class explained takes its place")
    if whole:
        remarks.append(f"{whole} pictures are shown whole, as what the model saw of them is not known: maps lie beside")
    return Written(str(path), holds, "\n".join(remarks))


def _show_pictures(
    results: Results,
    samples: Samples,
    pictures: str | PathLike[str] | NDArray[np.uint8] | None,
    size: tuple[int, int],
) -> Iterator[tuple[Pixels, bool]]:
    """Yield what the model saw of the samples, ``(H, W, 3)``, and whether that is known.

    That pictures were given at all is checked at once.
    """
    if pictures is None:
        raise AnalysisError(
            "a ViRelAy project shows the pictures, which a file of results does not hold: give their folder, or all of "
            "them, with <pictures>",
            pictures='"photos/"',
        )
    preparation = (results.config.get("data") or {}).get("preparation")
    folder = None if isinstance(pictures, np.ndarray) else Path(pictures)

    def find(index: int, name: str) -> Pixels | None:
        if isinstance(pictures, np.ndarray):
            return np.asarray(pictures[index]) if index < len(pictures) else None
        return find_picture(name, folder)

    def show() -> Iterator[tuple[Pixels, bool]]:
        for index, name in zip(samples.index.tolist(), samples.name, strict=True):
            found = find(index, str(name))
            if found is None:
                where = f"{folder}, as {name!r}" if folder is not None else "the array"
                raise AnalysisError(f"the picture of sample {index} is not in {where}")
            seen = as_seen(found, preparation, size)
            yield scaled(found if seen is None else seen, size), seen is not None

    return show()


def _write_dataset(
    path: Path, labels: NDArray[np.int32], size: tuple[int, int], shown: Iterator[tuple[Pixels, bool]]
) -> int:
    """Write pictures and classes ``(N,)`` of the samples, in order; return how many pictures are shown whole."""
    shape, whole = (len(labels), *size, 3), 0
    with written_whole(path) as part:
        with as_output_error(path, new=True), h5py.File(part, "w", locking=False) as file, writing(file) as held:
            _reserve(file, math.prod(shape))
            data = file.create_dataset("data", shape, np.uint8, chunks=(1, *shape[1:]))
            held += [data, file.create_dataset("label", data=labels.astype(np.uint16))]
            for row, (picture, aligned) in enumerate(shown):
                data[row] = picture
                whole += not aligned
        trim(part, path, new=True)
    return whole


def _write_project(path: Path, results: Results, method: str) -> None:
    """Write the names of the classes, and the project that names all files by their place beside it."""
    names = [{"index": k, "word_net_id": "", "name": name} for k, name in enumerate(results.class_names)]
    project = {
        "name": results.path.stem,
        "model": str((results.config.get("model") or {}).get("name", "")),
        "label_map": path.with_suffix(".labels.json").name,
        "dataset": {"name": results.path.stem, "type": "hdf5", "path": path.with_suffix(".dataset.h5").name},
        "attributions": {
            "attribution_method": method,
            "attribution_strategy": STRATEGIES.get(str(results.config.get("target")), "predicted_label"),
            "sources": [path.with_suffix(".attributions.h5").name],
        },
    }
    with written_whole(path.with_suffix(".labels.json")) as part:
        part.write_text(json.dumps(names, indent=2))
    with written_whole(path) as part:
        part.write_text(json.dumps({"project": project}, indent=2) + "\n")  # what is JSON is YAML, too


def _with_channels(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return maps ``(N, H, W)`` as ``(N, 1, H, W)``; those with channels as they are."""
    return maps if maps.ndim == 4 else maps[:, None]


def _reserve(file: h5py.File, size: int) -> None:
    """Take room for so many bytes of values, where the system can: HDF5 crashes on a disk that is full half way."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.id.get_vfd_handle(), 0, size + MARGIN)
