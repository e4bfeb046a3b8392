"""Disks that fail or are full: every run says so or is right, and none is ended by a signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.faults.evaluation_jobs import evaluation
from tests.faults.explanation_jobs import save_h5
from tests.faults.export_jobs import EXPORTS
from tests.faults.jobs import add_method, closing, image, join, prepare, run, stream
from tests.faults.library import build, drawn, trials, writes_of


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where all trials work; what jobs read is in it."""
    made = tmp_path_factory.mktemp("trials")
    prepare(made)
    return made


def everything(folder: Path) -> dict[str, Any]:
    """Return what a job made: values and attributes of HDF5 files, but when they were begun; other files as bytes."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".txt"]
    return {path.relative_to(folder).as_posix(): _content(path) for path in paths}


def _content(path: Path) -> Any:
    if path.suffix == ".toml":  # a comment names the folder
        return [line for line in path.read_text().splitlines() if not line.startswith("#")]
    if path.suffix != ".h5":
        return path.read_bytes()
    found: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = item.asstr()[()].tolist() if h5py.check_string_dtype(item.dtype) else item[()].tobytes()
            if not name.endswith("/seconds"):
                found[name] = (str(item.dtype), item.shape, values)

    with h5py.File(path) as file:
        file.visititems(take)
        for name in set(file.attrs) - {"created"}:
            found[f"@{name}"] = np.asarray(file.attrs[name]).tolist()
    return found


def assert_told_or_right(library: Path, job: Callable[[Path], None], folder: Path, kind: str, count: int) -> None:
    """Let a job's writes fail: a run that ends well is right; another one says so, and the next has the same bits."""
    where = f"{job.__module__}:{job.__name__}"
    writes = writes_of(library, where, folder)
    wanted = everything(folder / f"{job.__name__}-count-0")
    outcomes = trials(library, where, folder, kind, drawn(count, writes))
    print(f"{where}, {kind}: of {writes} writes {len(outcomes)} failed: {Counter(outcomes.values())} {outcomes}")
    for number, outcome in outcomes.items():
        place = folder / f"{job.__name__}-{kind}-{number}"
        wanted_end = ("signal 9",) if kind == "kill" else ("done", "told")
        assert outcome in wanted_end, f"{kind} of write {number}: {outcome}\n{(place / 'log.txt').read_text()}"
        if outcome != "done":
            job(place)
        found = everything(place)
        assert found.keys() == wanted.keys(), (number, outcome)
        assert found == wanted, (number, outcome)


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("kind", ["eio", "short", "full"])
def test_a_file_made_in_memory(library: Path, folder: Path, kind: str) -> None:
    assert_told_or_right(library, image, folder, kind, 1)


def test_a_run_and_a_stream(library: Path, folder: Path) -> None:
    assert_told_or_right(library, run, folder, "eio", 4)
    assert_told_or_right(library, run, folder, "kill", 2)
    assert_told_or_right(library, stream, folder, "kill", 2)


def test_a_file_that_can_not_be_closed(library: Path, folder: Path) -> None:
    """HDF5 has freed what the file stands on by then: whoever used it again was ended by a signal."""
    assert_told_or_right(library, closing, folder, "eio", 9)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "count"), [("eio", 20), ("kill", 10), ("short", 5), ("full", 10)])
@pytest.mark.parametrize("job", [run, stream, add_method, join])
def test_many_runs(library: Path, folder: Path, job: Callable[[Path], None], kind: str, count: int) -> None:
    assert_told_or_right(library, job, folder, kind, count)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["eio", "full"])
@pytest.mark.parametrize("job", EXPORTS)
def test_what_is_exported_is_told_or_right(library: Path, folder: Path, job: Callable[[Path], None], kind: str) -> None:
    assert_told_or_right(library, job, folder, kind, 3)


@pytest.mark.full
def test_an_evaluation_is_told_or_right(library: Path, folder: Path) -> None:
    assert_told_or_right(library, evaluation, folder, "eio", 10)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["eio", "full"])
def test_an_explanation_is_saved_or_not(library: Path, folder: Path, kind: str) -> None:
    assert_told_or_right(library, save_h5, folder, kind, 1)
