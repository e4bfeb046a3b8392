"""Disks that fail or are full: every run says so or is right, and none is ended by a signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.faults.jobs import NAME
from tests.faults.library import build, drawn, trials, writes_of


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("library"))


def everything(path: Path) -> dict[str, Any]:
    """Return all values and attributes of a file."""
    found: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(take)
        for name in file.attrs:
            found[f"@{name}"] = np.asarray(file.attrs[name]).tobytes()
    return found


def assert_told_or_right(library: Path, job: str, folder: Path, kind: str, count: int) -> None:
    """Let a job's writes fail: a run that ends well has all values, another one says so and leaves nothing behind."""
    writes = writes_of(library, job, folder)
    wanted = everything(folder / "count-0" / NAME)
    outcomes = trials(library, job, folder, kind, drawn(count, writes))
    print(f"{job}, {kind}: of {writes} writes failed {outcomes}")
    assert set(outcomes.values()) <= {"done", "told"}, outcomes
    for number, outcome in outcomes.items():
        files = {path.name for path in (folder / f"{kind}-{number}").iterdir()} - {"log.txt"}
        if outcome == "done":
            assert files == {NAME}, (number, files)
            assert everything(folder / f"{kind}-{number}" / NAME) == wanted, number
        else:
            assert files == set(), (number, files)


@pytest.mark.parametrize("kind", ["eio", "short", "full"])
def test_a_file_made_in_memory(library: Path, tmp_path: Path, kind: str) -> None:
    assert_told_or_right(library, "tests.faults.jobs:image", tmp_path, kind, 4)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["eio", "full"])
def test_an_explanation_is_saved_or_not(library: Path, tmp_path: Path, kind: str) -> None:
    assert_told_or_right(library, "tests.faults.explanation_jobs:save_h5", tmp_path, kind, 20)
