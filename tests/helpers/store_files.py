"""Files of evaluations with known content, for the tests of who writes and who reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relprop.store import (
    EvaluationWriter,
    Layout,
    Method,
    Metric,
    open_evaluation,
)
from tests.helpers.paths import ROOT

SIDE, CLASSES = 6, 3
SCORES = (
    "faithfulness",
    "robustness",
    "unclipped",
    "local_consistency",
    "contrastiveness_raw",
    "contrastiveness",
    "gae",
)
LAYOUT = Layout((SIDE, SIDE), CLASSES, class_names=("cat", "dög", "fish"))
POINTING = Metric("pointing", "the map's maximum lies on the object", (0.0, 1.0), "higher is better")
METHODS = (
    Method("absLRP", {"rules": "abslrp", "delta": 0.01}, "relative absolute magnitude LRP", (POINTING,), "summed"),
    Method("constant", {"control": "constant"}, "a map that knows nothing"),
)


def config(samples: int, shard: tuple[int, int] = (0, 1), **changes: Any) -> dict[str, Any]:
    shared = {"model": {"name": "tiny", "sha256": "0" * 64}, "protocol": "gae", "seed": 0}
    return {**shared, "samples": samples, "shard": list(shard), **changes}


def drawn(index: int, column: int, *shape: int) -> NDArray[np.float32]:
    """Numbers in [0, 1) that follow from sample and column alone, and that no version of NumPy changes."""
    count = int(np.prod(shape, dtype=int))
    return (((np.arange(count) * 7919 + index * 104729 + column * 1299709) % 1009) / 1009).astype("f4").reshape(shape)


def sample_rows(indices: Sequence[int]) -> dict[str, Any]:
    """What the masking run might have said of these samples of the data set."""
    classes = np.asarray(indices) % CLASSES
    return {
        "name": [f"pictures/{index:03}.png" for index in indices],
        "label": classes,
        "prediction": classes,
        "target": classes,
        "flags": np.asarray(indices) % 2 * 8,
        "mosaic_members": [[index, index + 1, index + 2, index + 3] for index in indices],
        "quadrant": np.zeros(len(indices), int),
        "quadrant_scores": [drawn(index, 1, 4) for index in indices],
        "logit": [drawn(index, 2, 2, 10) for index in indices],
        "probability": [drawn(index, 3, 2, 10) for index in indices],
        "output": [drawn(index, 4, CLASSES) for index in indices],
        "steps": [(drawn(index, 5, 2, SIDE, SIDE) * 10).astype(int) + 1 for index in indices],
        "impact": [(drawn(index, 6, SIDE, SIDE) * 3).astype(int) - 1 for index in indices],
    }


def method_rows(indices: Sequence[int], method: Method) -> dict[str, Any]:
    """What a method might have scored on these samples."""
    offset = 100 * (1 + METHODS.index(method)) if method in METHODS else 1000
    columns = [*SCORES, *(metric.name for metric in method.metrics)]
    rows: dict[str, Any] = {
        name: [float(drawn(index, offset + place, 1)[0]) for index in indices] for place, name in enumerate(columns)
    }
    rows["map_change"] = [drawn(index, offset + 20, 2, 9) for index in indices]
    if method.maps:
        rows["relevance"] = [(drawn(index, offset + 30, SIDE, SIDE) - 0.3) * 1e-5 for index in indices]
    return rows


def write_all(
    writer: EvaluationWriter, methods: Sequence[Method] = METHODS, unit: int = 4, *, finish: bool = True
) -> None:
    """Write what is absent, unit by unit in an order of its own, and finish."""
    index = writer.index
    order = np.random.default_rng(3).permutation(len(index))
    for start in range(0, len(order), unit):
        rows = order[start : start + unit]
        fresh = rows[writer.sample_states()[rows] == 0]
        writer.write_samples(fresh, sample_rows(index[fresh].tolist()))
        writer.commit()
        for method in methods:
            fresh = rows[writer.method_states(method.name)[rows] == 0]
            writer.write_method(method.name, fresh, method_rows(index[fresh].tolist(), method))
            writer.commit()
    if finish:
        writer.finish()


def write_file(path: Path, index: Sequence[int], configuration: dict[str, Any], layout: Layout = LAYOUT) -> Path:
    """Write a complete file."""
    with EvaluationWriter.create(path, configuration, layout, index, methods=METHODS) as writer:
        write_all(writer)
    return path


def write_golden(path: Path) -> Path:
    """Write the golden file of the format's present version: one row failed, one method has a remark."""
    with EvaluationWriter.create(
        path, config(4), LAYOUT, range(4), methods=METHODS, versions={"relprop": "0"}
    ) as writer:
        writer.write_samples([3], {"state": 2, "message": ["not a picture ✗"], "name": ["pictures/003.png"]})
        writer.write_samples(range(3), sample_rows(range(3)))
        for method in METHODS:
            writer.write_method(method.name, range(3), method_rows(range(3), method) | {"message": "a remark"})
            writer.write_method(method.name, [3], {"state": 2, "message": ["not a picture ✗"]})
        writer.finish()
    return path


ABSLRP, CONSTANT = METHODS


def contents(path: Path, *, without: tuple[str, ...] = ("seconds",)) -> dict[str, Any]:
    """All data sets by path, strings decoded."""
    found: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.rpartition("/")[2] not in without:
            found[name] = item.asstr()[:] if h5py.check_string_dtype(item.dtype) else item[:]

    with open_evaluation(path) as file:
        file.visititems(take)
        for name in ("config", "config_sha256", "format", "format_version", "complete"):
            found[f"@{name}"] = file.attrs[name]
    return found


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = contents(one), contents(other)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
        assert getattr(values, "dtype", None) == getattr(theirs[name], "dtype", None), name


def flipped(source: Path, target: Path, place: int) -> Path:
    """Copy a file with one bit changed."""
    content = bytearray(source.read_bytes())
    content[place] ^= 4
    target.write_bytes(content)
    return target


def place_of(path: Path, name: str, row: int) -> int:
    """Return where in the file a row of a data set begins."""
    with h5py.File(path) as file:
        data = file[name]
        if data.chunks:
            return int(data.id.get_chunk_info_by_coord((row, *[0] * (data.ndim - 1))).byte_offset)
        return int(data.id.get_offset()) + row * data.dtype.itemsize * int(np.prod(data.shape[1:]))


def python(code: str, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )
