"""Runs that are read while they are written: what was committed, or a word to wait."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import relprop
from relprop.analysis.reports.summaries import Summary
from relprop.store import (
    BusyError,
    DamageError,
    EvaluationWriter,
    FormatError,
    MergeError,
    MissingFileError,
    Snapshot,
    State,
    committed,
    merge,
    open_run,
)
from relprop.store.shards import shard_file, shard_folder
from relprop.store.writing import build
from tests.helpers.store_files import (
    ABSLRP,
    CONSTANT,
    LAYOUT,
    METHODS,
    config,
    method_rows,
    sample_rows,
    write_all,
    write_file,
)

COUNT = 200


def check(file: h5py.File, snapshot: Snapshot) -> int:
    """Compare what is done in a file with what was written; return how many samples that is."""
    index = file["sample"][:]
    wanted = {"samples": sample_rows(index.tolist())}
    wanted |= {f"methods/{method.name}": method_rows(index.tolist(), method) for method in METHODS}
    before = np.ones(len(index), bool)
    for name, columns in wanted.items():
        group = file[name]
        done = group["state"][:] == State.DONE
        assert not (done & ~before).any() or name != "samples"
        for column, values in columns.items():
            if column == "relevance" or not done.any():
                continue
            data = group[column]
            found = snapshot.read(data, np.arange(len(index))) if data.chunks else data[:]
            expected = np.asarray(values)[done]
            if column == "name":
                assert data.asstr()[:][done].tolist() == expected.tolist()
            else:
                np.testing.assert_array_equal(found[done], expected.astype(found.dtype), err_msg=column)
    return int(done.sum())


def write_slowly(path: Path) -> None:
    with EvaluationWriter.resume(path, config(COUNT), LAYOUT) as writer:
        write_all(writer, unit=2)


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_what_a_writer_without_rest_committed_is_read_right(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    EvaluationWriter.create(path, config(COUNT), LAYOUT, range(COUNT), methods=METHODS).close()
    writer = multiprocessing.get_context("fork").Process(target=write_slowly, args=(path,))
    writer.start()
    counts = []
    while writer.is_alive():
        try:
            file, snapshot = open_run(path)
        except BusyError:
            continue
        with file:
            if snapshot is not None:
                counts.append(check(file, snapshot))
    writer.join()
    assert writer.exitcode == 0
    assert counts == sorted(counts)
    assert len(set(counts)) >= 5, counts
    file, snapshot = open_run(path)
    with file:
        assert snapshot is None
        assert file.attrs["complete"] == 1


def test_shards_of_any_state_are_one_run(tmp_path: Path) -> None:
    output = tmp_path / "run.h5"
    shard_folder(output).mkdir()
    with pytest.raises(BusyError, match=r"nothing of the run .*run\.h5 is written yet: wait"):
        relprop.Results(output)
    parts = [shard_file(output, part, 3) for part in range(3)]
    write_file(parts[0], range(0, 12, 3), config(12, (0, 3)))
    writer = EvaluationWriter.create(parts[1], config(12, (1, 3)), LAYOUT, range(1, 12, 3), methods=METHODS)
    rows = writer.index[:2].tolist()
    writer.write_samples([0, 1], sample_rows(rows))
    writer.write_method("absLRP", [0], method_rows(rows[:1], ABSLRP))
    writer.write_method("absLRP", [1], {"state": 2, "message": ["too bright"]})
    writer.commit()
    writer.write_method("constant", [0], method_rows(rows[:1], CONSTANT))
    writer.commit()
    for path in (output, shard_folder(output)):
        with relprop.Results(path) as results:
            assert (len(results), results.evaluated, results.planned, results.complete) == (8, 5, 12, False)
            assert results.samples.index.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
            assert results.config["shard"] == [0, 1]
            assert results.state("absLRP").tolist() == [1, 1, 1, 2, 1, 0, 1, 0]
            assert results.messages("absLRP")[3] == "too bright"
            done = [0, 1, 3, 6, 9]
            wanted = method_rows(done, ABSLRP)
            there = results["absLRP"].select(samples=done)
            np.testing.assert_array_equal(there.score("gae"), np.float32(wanted["gae"]))
            np.testing.assert_allclose(there.relevance(), wanted["relevance"], atol=1e-8)
            np.testing.assert_array_equal(there.steps(), sample_rows(done)["steps"])
            assert np.isnan(results.relevance("absLRP")[[3, 5, 7]]).all()
            assert "5 of 12 samples, not complete" in str(results)
            found = results.summary()
            assert isinstance(found, Summary)
            assert (found.evaluated, found.planned, found["absLRP"].done) == (5, 12, 5)
            arrays = results.to_xarray(maps=True)
            assert arrays["relevance"].dims == ("attribution", "sample", "y", "x")
    np.testing.assert_array_equal(writer.sample_states(), [1, 1, 0, 0])
    write_all(writer)
    writer.close()
    write_file(parts[2], range(2, 12, 3), config(12, (2, 3)))
    file, _ = open_run(output)
    with file:
        assert file.attrs["complete"] == 1
    with relprop.Results(output) as results:
        merge(parts, output)
        for part in parts:
            part.unlink()
        with pytest.raises(BusyError, match="the run has ended, open it again"):
            results.steps()
    shard_folder(output).rmdir()
    for path in (output, shard_folder(output)):
        file, snapshot = open_run(path)
        with file:
            assert snapshot is None
            assert len(file["sample"]) == 12


def test_shards_of_two_runs_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "run.h5"
    shard_folder(output).mkdir()
    write_file(shard_file(output, 0, 2), range(0, 12, 2), config(12, (0, 2)))
    write_file(shard_file(output, 1, 2), range(1, 12, 2), config(12, (1, 2), seed=5))
    with pytest.raises(MergeError, match=r"seed is 0 .* and 5"):
        open_run(output)


def test_a_stream_is_read_while_it_is_written_and_grows(tmp_path: Path) -> None:
    path, seen = tmp_path / "stream.h5", []
    with EvaluationWriter.create(path, config(0) | {"samples": None}, LAYOUT, methods=METHODS) as writer:
        for start in range(0, 3 * build.STREAM_ROWS, 4):
            writer.extend(range(start, start + 4))
            file, snapshot = open_run(path)
            with file:
                assert snapshot is not None
                assert file["sample"][:].tolist() == list(range(start))
                seen.append(check(file, snapshot))
            write_all(writer, finish=False)
    file, snapshot = open_run(path)  # stopped, not ended
    with file:
        assert snapshot is not None
        assert check(file, snapshot) == 3 * build.STREAM_ROWS
    assert seen == list(range(0, 3 * build.STREAM_ROWS, 4))


def test_what_can_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed, "ATTEMPTS", 2)
    with pytest.raises(MissingFileError, match=r"there is no file .*run\.h5"):
        open_run(tmp_path / "run.h5")
    with pytest.raises(FormatError, match="a folder without shards"):
        open_run(tmp_path)
    output = tmp_path / "run.h5"
    shard_folder(output).mkdir()
    path = write_file(shard_file(output, 0, 1), range(12), config(12))
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        content[file["methods/absLRP/gae"].id.get_offset()] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageError, match="is damaged"):
        open_run(output)


def test_rows_that_are_done_over_meanwhile_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path / "run.h5", range(8), config(8))
    columns, calls = committed._columns, 0
    with EvaluationWriter.resume(path, config(8), LAYOUT) as writer:

        def change(file: h5py.File, rows: int) -> dict[str, np.ndarray]:
            nonlocal calls
            found = columns(file, rows)
            calls += 1
            if calls == 1:  # all is read, and not yet compared
                values = method_rows([3], CONSTANT) | {"gae": [0.75], "seconds": [2.0]}
                writer.write_method("constant", [3], values)
                writer.commit()
            return found

        monkeypatch.setattr(committed, "_columns", change)
        start = time.monotonic()
        file, _ = open_run(path)
        assert time.monotonic() - start < 20
        with file:
            assert file["methods/constant/gae"][3] == np.float32(0.75)
        assert calls == 2
        file, snapshot = open_run(path)
        assert snapshot is not None
        with file:
            writer.write_samples([2], sample_rows([2]))
            writer.commit()
            monkeypatch.setattr(committed, "ATTEMPTS", 2)
            with pytest.raises(BusyError, match=r"rows are done over.*wait"):
                snapshot.read(file["samples/steps"], np.array([2]))
