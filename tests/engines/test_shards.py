"""Shards in a folder: cut, joined, kept where something is wrong."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from relprop.engines import EngineError, shards
from relprop.engines.shards import ShardFolder
from relprop.errors import RelpropWarning
from relprop.files import OutputError
from relprop.gae.mosaics import sample_order
from relprop.store import BusyError, ConfigurationError, StoreError, merge, split
from tests.helpers.evaluations import assert_same, contents, run

CONTROLS = ("random", "constant")
PARTS = 3


def fill(folder: ShardFolder, count: int = 17, methods: tuple[str, ...] = CONTROLS, **options: object) -> None:
    for part in range(PARTS):
        run(folder.file(part, PARTS), methods, count, unit=1, shard=(part, PARTS), resume=True, **options)


@pytest.fixture
def folder(tmp_path: Path) -> ShardFolder:
    return ShardFolder(tmp_path / "run.h5")


def test_shards_are_joined_and_only_then_removed(folder: ShardFolder, tmp_path: Path) -> None:
    with folder.held(resume=False, overwrite=False):
        fill(folder)
        folder.join(PARTS, overwrite=False)
    assert not folder.path.exists()
    run(tmp_path / "whole.h5", CONTROLS, unit=1)
    assert_same(contents(folder.output), contents(tmp_path / "whole.h5"))


@pytest.mark.full
def test_shards_stay_where_the_joined_file_is_not_what_was_written(
    folder: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(paths: list[Path], out: Path, overwrite: bool) -> None:
        merge(paths, out, overwrite=overwrite)
        content = bytearray(out.read_bytes())
        content[len(content) // 2] ^= 1
        out.write_bytes(content)

    monkeypatch.setattr(shards, "merge", damaging)
    with folder.held(resume=False, overwrite=False):
        fill(folder)
        with pytest.raises((EngineError, StoreError), match="damaged"):
            folder.join(PARTS, overwrite=False)
    assert len(folder.files()) == PARTS


@pytest.mark.full
def test_a_whole_run_is_cut_extended_and_joined_to_the_same_bits(folder: ShardFolder, tmp_path: Path) -> None:
    run(folder.output, CONTROLS[:1], unit=1, limit=10)
    with folder.held(resume=True, overwrite=False):
        folder.cut(PARTS, sample_order(17, 0)[:10], 1)
        assert len(folder.files()) == PARTS
        before = [h5py.File(path)["samples/state"][:] for path in folder.files()]
        assert np.concatenate(before).tolist() == [1] * 10
        fill(folder)
        folder.join(PARTS, overwrite=True)
    run(tmp_path / "whole.h5", CONTROLS, unit=1)
    assert_same(contents(folder.output), contents(tmp_path / "whole.h5"))


@pytest.mark.full
def test_what_can_not_be_cut_is_told(folder: ShardFolder, tmp_path: Path) -> None:
    run(folder.output, "random", unit=1)
    with folder.held(resume=True, overwrite=False), pytest.raises(ConfigurationError, match=r"has 17.*shall have 8"):
        folder.cut(PARTS, sample_order(17, 0)[:8], 1)
    part = tmp_path / "part.h5"
    run(part, "random", unit=1, shard=(0, 2))
    with pytest.raises(StoreError, match="is a shard itself"):
        split(part, {tmp_path / "new.h5": (0, [0])}, 2)
    assert not (tmp_path / "new.h5").exists()


def test_two_runs_at_one_file_are_refused(folder: ShardFolder) -> None:
    with (
        folder.held(resume=False, overwrite=False),
        pytest.raises(BusyError, match="another relprop"),
        folder.held(resume=True, overwrite=False),
    ):
        pass
    assert not folder.path.exists()


def test_what_is_there_is_neither_overwritten_nor_resumed_unasked(folder: ShardFolder) -> None:
    folder.path.mkdir()
    folder.file(0, 2).touch()
    with pytest.raises(OutputError, match="exists: pass"), folder.held(resume=False, overwrite=False):
        pass
    folder.file(0, 3).touch()
    with pytest.raises(EngineError, match="several runs, cut into 2, 3"):
        folder.parts()


def test_there_are_more_shards_than_workers_and_never_more_than_units(folder: ShardFolder) -> None:
    assert folder.plan(1000, 2, 2) == 12
    assert folder.plan(17, 2, 2) == 3
    assert folder.plan(4, 2, 8) == 1
    assert folder.plan(10**6, 2, 512) == shards.MOST
    folder.path.mkdir()
    folder.file(0, 5).touch()
    assert folder.plan(1000, 2, 2) == 5  # as it was begun


@pytest.mark.full
def test_merged_shards_of_unlike_threads_are_remarked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [tmp_path / f"{part}.h5" for part in range(2)]
    for part, path in enumerate(parts):
        monkeypatch.setattr("torch.get_num_threads", lambda part=part: part + 1)
        run(path, "random", shard=(part, 2))
    with pytest.warns(RelpropWarning, match=r"1 and 2 threads: scores agree .* up to rounding"):
        merge(parts, tmp_path / "run.h5")
