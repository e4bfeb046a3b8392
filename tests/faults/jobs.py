"""What is done while writes fail, without PyTorch; the same every time, and ended by the same call where it was told.

A job works in an empty folder; what it reads lies in ``inputs`` beside that.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from relprop.files.hdf5_images import hdf5_written_whole
from relprop.store import EvaluationWriter, Method, merge
from relprop.store.writing.writable_file import WritableFile
from tests.helpers.store_files import LAYOUT, METHODS, config, write_all, write_file

NAME = "out.h5"
SAMPLES = 8
STREAMED = 20
"""Samples of a stream: more than a file has rows for when it is begun."""
ADDED = Method("added", {"control": "added"}, "a method that comes later", maps="summed")


def prepare(folder: Path) -> None:
    """Make what jobs read."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    write_file(inputs / "begun.h5", range(SAMPLES), config(SAMPLES))
    for shard in range(2):
        write_file(inputs / f"shard{shard}.h5", range(shard, SAMPLES, 2), config(SAMPLES, (shard, 2)))


def image(folder: Path) -> None:
    """Write an HDF5 file in one go."""
    random = np.random.default_rng(0)
    with hdf5_written_whole(folder / NAME) as file:
        for name, shape in (("relevance", (2, 3, 32, 32)), ("output", (2, 1000)), ("target", (2,))):
            values = random.random(shape).astype(np.float32)
            data = file.create_dataset(name, data=values, compression="gzip", compression_opts=1, shuffle=True)
            data.attrs["description"] = f"values of {name}"


def run(folder: Path) -> None:
    """Write a run."""
    path = folder / NAME
    if path.exists():
        writer = EvaluationWriter.resume(path, config(SAMPLES), LAYOUT)
    else:
        writer = EvaluationWriter.create(path, config(SAMPLES), LAYOUT, range(SAMPLES), methods=METHODS)
    with writer:
        write_all(writer)


def stream(folder: Path) -> None:
    """Write a run of as many samples as come."""
    path, stated = folder / NAME, {**config(SAMPLES), "samples": None}
    if path.exists():
        writer = EvaluationWriter.resume(path, stated, LAYOUT)
    else:
        writer = EvaluationWriter.create(path, stated, LAYOUT, methods=METHODS)
    with writer:
        write_all(writer, finish=False)  # rows that the last time left open
        while (there := len(writer.index)) < STREAMED:
            writer.extend(range(there, min(there + 4, STREAMED)))
            write_all(writer, finish=False)
        writer.finish()


def closing(folder: Path) -> None:
    """Write a stream, of whose writes those alone are meant by which a file is closed, to be copied or in the end."""
    meant, let_go = os.environ.pop("FAULT_FOLDER", None), WritableFile._let_go

    def close(opened: WritableFile) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if meant is not None:
                patch.setenv("FAULT_FOLDER", meant)
            let_go(opened)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WritableFile, "_let_go", close)
        stream(folder)


def add_method(folder: Path) -> None:
    """Add a method to a run that is complete, and end it."""
    path, methods = folder / NAME, (*METHODS, ADDED)
    if not path.exists():
        copy = shutil.copyfile(folder.parent / "inputs" / "begun.h5", folder / "copy.txt")  # a name that is not meant
        copy.rename(path)
    with EvaluationWriter.resume(path, config(SAMPLES), LAYOUT, methods=methods) as writer:
        write_all(writer, methods)


def join(folder: Path) -> None:
    """Merge two shards."""
    merge([folder.parent / "inputs" / f"shard{shard}.h5" for shard in range(2)], folder / NAME)
