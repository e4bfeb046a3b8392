"""What is done while writes fail: tables, pages and maps in every form that a file can have."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path
from typing import Any

import cv2
import jinja2  # noqa: F401 - what commands load is loaded once, before trials are forked
import numpy as np
import pandas as pd  # noqa: F401
import xarray as xr  # noqa: F401
from torch import nn
from typer.testing import CliRunner

from relprop.cli import app
from relprop.cli.explaining.sharded.index import join_parts, write_part
from relprop.cli.explaining.sharded.shard_files import write_shard
from relprop.cli.explaining.sharded.storage import Storage, make_sample
from relprop.cli.explaining.sharded.working import WorkingFile, samples_of
from relprop.errors import RelpropError
from tests.helpers.models import seeded

BATCHES = 3
RUNNER = CliRunner()


def make() -> nn.Module:
    """Return a classifier that the command line can name."""
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()))


def export_csv(folder: Path) -> None:
    """Write a table as text."""
    _run("export", _begun(folder), "-o", folder / "out.csv")


def export_parquet(folder: Path) -> None:
    """Write a table as Parquet."""
    _run("export", _begun(folder), "-o", folder / "out.parquet")


def export_netcdf(folder: Path) -> None:
    """Write arrays, with maps."""
    _run("export", _begun(folder), "-o", folder / "out.nc", "--maps")


def export_virelay(folder: Path) -> None:
    """Write an attribution database."""
    _run("export", _begun(folder), "--virelay", folder / "out.h5", "-m", "absLRP")


def page(folder: Path) -> None:
    """Write a page of a run."""
    _run("report", _begun(folder), "-o", folder / "out.html")


def maps_in_hdf5(folder: Path) -> None:
    """Collect maps batch by batch, and write a shard with its part of the index, and the index."""
    _shard(folder, Storage("shards"))


def maps_in_tar(folder: Path) -> None:
    """Do the same, as a tar."""
    _shard(folder, Storage("webdataset"))


def pictures(folder: Path) -> None:
    """Explain two pictures: an index, a PNG of each, and a page."""
    there = folder.parent / "inputs"
    for number in range(2):
        picture = there / f"{number}.png"
        if not picture.exists():
            values = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
            picture.write_bytes(cv2.imencode(".png", values)[1].tobytes())
    model = ("--model", "tests.faults.export_jobs:make", "--no-cache")
    with chdir(folder):  # run.toml has the name that is given
        _run("explain", there / "0.png", there / "1.png", *model, "--format", "png", "--html", "-o", ".", "--overwrite")


def _begun(folder: Path) -> Path:
    return folder.parent / "inputs" / "begun.h5"


def _run(*arguments: Any) -> None:
    """Run a command; what it says when it fails is what a user is told."""
    os.environ["COLUMNS"] = "1000"
    ended = RUNNER.invoke(app, [*map(str, arguments), "-q"] if arguments[0] == "explain" else [*map(str, arguments)])
    if ended.exit_code == 1 and ended.stderr.startswith("relprop: "):
        raise RelpropError(ended.stderr)
    if ended.exit_code:
        raise RuntimeError(f"{ended.exit_code}: {ended.output}") from ended.exception


def _shard(folder: Path, storage: Storage) -> None:
    working, path = folder / "out.working", folder / storage.shard_name(0)
    with WorkingFile(working) as file:
        for batch in range(file.done // 2, BATCHES):
            for number in (2 * batch, 2 * batch + 1):
                heat = np.random.default_rng(number).random((32, 32)).astype("f4")
                entry = {"number": number, "file": f"{number}.png", "target": number, "probability": 0.5}
                file.add(make_sample(f"{number:04}", entry, heat, storage.dtype))
            file.commit(2 * batch + 2)
    write_shard(working, path, storage, {"model": "none"})
    write_part(folder / "out.rows.parquet", path.name, samples_of(working))
    join_parts([folder / "out.rows.parquet"], folder / "out.parquet")


EXPORTS = (
    export_csv,
    export_parquet,
    export_netcdf,
    export_virelay,
    page,
    maps_in_hdf5,
    maps_in_tar,
    pictures,
)
