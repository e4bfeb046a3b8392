"""What is copied from file to file, and how much a commit reads: counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from relprop.files.locking import Lock
from relprop.store import DamageError, EvaluationWriter, Extent, Method, State, merge, open_evaluation, survey
from relprop.store.writing import build, copying, writable_file
from relprop.store.writing.copying import Part, copy_data
from relprop.store.writing.extending import extended
from tests.helpers.paths import ROOT
from tests.helpers.store_files import (
    ABSLRP,
    LAYOUT,
    METHODS,
    assert_same,
    config,
    contents,
    flipped,
    method_rows,
    place_of,
    sample_rows,
    write_all,
    write_file,
)

COUNT, PARTS = 23, 4
LARGE = ("samples/steps", "samples/impact", "samples/output", "methods/absLRP/maps/relevance")


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count the values that are read and written by way of data sets."""
    found = {"read": 0, "written": 0}
    get, put = h5py.Dataset.__getitem__, h5py.Dataset.__setitem__

    def read(data: h5py.Dataset, place: Any, **more: Any) -> Any:
        values = get(data, place, **more)
        found["read"] += np.size(values)
        return values

    def write(data: h5py.Dataset, place: Any, values: Any) -> None:
        found["written"] += np.size(values)
        put(data, place, values)

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "__getitem__", read)
        patch.setattr(h5py.Dataset, "__setitem__", write)
        yield found


def moved_by_a_commit(path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    rows = [7, 2, 3]
    with EvaluationWriter.create(path, config(count), LAYOUT, range(count), methods=METHODS) as writer:
        writer.write_samples([0], sample_rows([0]))
        writer.commit()
        with counted(monkeypatch) as found:
            writer.write_samples(rows, sample_rows(rows) | {"index": rows})
            writer.commit()
            writer.write_method("absLRP", rows, method_rows(rows, ABSLRP))
            writer.commit()
            writer.write_method("absLRP", rows[:1], {"state": State.FAILED, "message": "done over"})
            writer.commit()
    return found


def test_a_commit_reads_and_writes_its_own_rows_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (moved_by_a_commit(tmp_path / f"{count}.h5", count, monkeypatch) for count in (10, 2000))
    assert few == many
    assert few["read"] == 3 + 3 + 3 + 1, "states of rows that are written, and the index of samples"
    assert few["written"] > 0


def test_a_stream_is_copied_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def copied(path: Path, lock: Lock, index: NDArray[np.int64], planned: int | None) -> Lock:
        sizes.append(len(index))
        return extended(path, lock, index, planned)

    monkeypatch.setattr(writable_file, "extended", copied)
    path = tmp_path / "stream.h5"
    with EvaluationWriter.create(path, config(0) | {"samples": None}, LAYOUT, methods=METHODS) as stream:
        with counted(monkeypatch) as found:
            for start in range(0, build.STREAM_ROWS, 2):
                assert stream.extend([start, start + 1]).tolist() == [start, start + 1]
        assert found == {"read": 0, "written": 0}
        for start in range(build.STREAM_ROWS, 300):
            stream.extend([start])
    assert sizes == [32, 64, 128, 256, 512]


def write_with_failures(path: Path, index: Sequence[int], shard: tuple[int, int], compression: Any) -> Path:
    """Write a file of which every fifth sample failed, and every third under the first method."""
    layout = replace(LAYOUT, compression=compression, level=3 if compression else 0)
    samples = np.asarray(index)
    with EvaluationWriter.create(path, config(COUNT, shard), layout, samples, methods=METHODS) as writer:
        for group, every in (("", 5), *((method.name, 3 if method is ABSLRP else COUNT) for method in METHODS)):
            method = next((one for one in METHODS if one.name == group), None)
            for wrong in (False, True):
                rows = np.flatnonzero((samples % every == 1) == wrong)[::-1]  # in another order than that of the file
                chosen = samples[rows].tolist()
                values = sample_rows(chosen) if method is None else method_rows(chosen, method)
                if wrong:
                    values = {"state": State.FAILED, "message": [f"no {one}" for one in chosen]}
                write = writer.write_samples if method is None else lambda *args, m=group: writer.write_method(m, *args)
                write(rows, values)
                writer.commit()
        writer.finish()
    return path


@pytest.mark.parametrize("compression", ["gzip", "zstd", None])
@pytest.mark.parametrize("block", [1 << 24, 200])
def test_scattered_shards_are_merged_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, block: int
) -> None:
    if compression == "zstd":
        pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed (the extra zstd)")
    monkeypatch.setattr(copying, "READ_AT_ONCE", block)
    whole = write_with_failures(tmp_path / "whole.h5", range(COUNT), (0, 1), compression)
    owner = np.random.default_rng(5).integers(0, PARTS, COUNT)
    shards = [
        write_with_failures(tmp_path / f"{part}.h5", np.flatnonzero(owner == part), (part, PARTS), compression)  # type: ignore[arg-type]
        for part in range(PARTS)
    ]
    merge(shards, tmp_path / "merged.h5")
    assert_same(tmp_path / "merged.h5", whole)
    assert survey(tmp_path / "merged.h5").sound
    with h5py.File(whole) as one, h5py.File(tmp_path / "merged.h5") as other:
        for name in LARGE:
            assert len(one[name]) == COUNT
            for row in range(COUNT):
                place = (row, *[0] * (one[name].ndim - 1))
                assert one[name].id.read_direct_chunk(place) == other[name].id.read_direct_chunk(place), (name, row)


def test_what_is_stored_alike_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [write_file(tmp_path / f"{part}.h5", range(part, 12, 2), config(12, (part, 2))) for part in range(2)]
    read = []
    get = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda data, place: read.append(data.name) or get(data, place))
    merge(shards, tmp_path / "merged.h5")
    assert {name.rpartition("/")[2] for name in read if name.startswith(("/samples", "/methods"))} <= {"state"}


@pytest.mark.parametrize("there", ["gzip", None])
def test_what_is_stored_otherwise_is_decoded_and_stored_anew(tmp_path: Path, there: str | None) -> None:
    source = write_file(tmp_path / "run.h5", range(12), config(12), replace(LAYOUT, level=6))
    wanted = contents(source)
    options = {"compression": there, "compression_opts": 1, "shuffle": True} if there else {}
    with open_evaluation(source) as file, h5py.File(tmp_path / "other.h5", "w") as other:
        for name in LARGE:
            data = file[name]
            made = other.create_dataset(name, data.shape, data.dtype, chunks=data.chunks, **options)
            copy_data([Part(data, file.content, np.arange(0, 12, 2), np.arange(0, 12, 2))], made)
            np.testing.assert_array_equal(made[::2], wanted[name][::2])
            assert not made[1::2].any()


def test_methods_that_a_run_has_not_yet_stay_absent_in_the_copy(tmp_path: Path) -> None:
    longer = config(12)
    path = tmp_path / "run.h5"
    with EvaluationWriter.create(path, longer, LAYOUT, range(0, 12, 3), planned=4, methods=METHODS) as writer:
        writer.write_samples(slice(0, 3), sample_rows([0, 3, 6]))
        writer.write_method("absLRP", [2, 0], method_rows([6, 0], ABSLRP))
        writer.commit()
    extent = Extent(range(12), 12)
    with EvaluationWriter.resume(path, longer, LAYOUT, methods=[Method("more", {})], extent=extent) as writer:
        assert writer.sample_states().tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]
        assert writer.method_states("absLRP").tolist() == [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
        assert not writer.method_states("more").any()
    found = contents(path)
    np.testing.assert_array_equal(found["samples/steps"][[0, 3, 6]], sample_rows([0, 3, 6])["steps"])
    assert not found["samples/steps"][[1, 9, 11]].any()


def test_a_file_without_a_seal_is_copied_too(tmp_path: Path) -> None:
    old = ROOT / "tests" / "golden" / "evaluation-v1.h5"
    merge([old], tmp_path / "merged.h5")
    mine, theirs = contents(tmp_path / "merged.h5"), contents(old)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        if not name.startswith("@"):
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two shards, so long that some blocks hold nothing but values of one data set."""
    paths = [tmp_path_factory.mktemp("halves") / f"{part}.h5" for part in range(2)]
    for part, path in enumerate(paths):
        index = range(part, 1600, 2)
        with EvaluationWriter.create(path, config(1600, (part, 2)), LAYOUT, index, methods=METHODS) as writer:
            write_all(writer, unit=800)
    return paths


@pytest.mark.parametrize("name", ["samples/steps", "methods/absLRP/maps/relevance", "methods/absLRP/gae"])
def test_a_changed_bit_of_a_shard_is_refused(halves: list[Path], tmp_path: Path, name: str) -> None:
    changed = flipped(halves[1], tmp_path / "changed.h5", place_of(halves[1], name, 301))
    with pytest.raises(DamageError, match=rf"changed\.h5 is damaged in {name} of samples .*\d"):
        merge([halves[0], changed], tmp_path / "merged.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.h5"]
