"""Rows count once they are committed, and what does not fit is refused before anything is written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relprop.files import OutputError
from relprop.store import (
    ConfigurationError,
    EvaluationWriter,
    Layout,
    Method,
    State,
    StoreError,
    is_complete,
    name_length,
    open_evaluation,
    read_layout,
    validate,
)
from relprop.store.config import canonical_json, differences
from relprop.store.description import read_format
from relprop.store.hdf5.seal import damaged_blocks
from relprop.store.writing import build, extending
from tests.helpers.store_files import (
    ABSLRP,
    CLASSES,
    CONSTANT,
    LAYOUT,
    METHODS,
    SIDE,
    assert_same,
    config,
    contents,
    method_rows,
    sample_rows,
    write_all,
)

STREAM = config(0) | {"samples": None}


def test_rows_count_once_they_are_committed(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with EvaluationWriter.create(path, config(6), LAYOUT, range(6), methods=METHODS) as writer:
        writer.write_samples([4, 1], sample_rows([4, 1]))
        assert writer.sample_states().tolist() == [0] * 6
        writer.commit()
        assert writer.sample_states().tolist() == [0, 1, 0, 0, 1, 0]
        writer.write_samples([0], sample_rows([0]))
        assert writer.read_samples([4, 1], ["name"])["name"].tolist() == ["pictures/004.png", "pictures/001.png"]
        with pytest.raises(StoreError, match="3 of samples, 6 of method absLRP, 6 of method constant"):
            writer.finish()
    with open_evaluation(path) as file:
        assert file["samples/state"][:].tolist() == [1, 1, 0, 0, 1, 0]
        assert not is_complete(file)
        validate(file)
    assert os.listdir(tmp_path) == ["run.h5"]


def test_what_was_not_committed_is_absent(tmp_path: Path) -> None:
    with EvaluationWriter.create(tmp_path / "run.h5", config(6), LAYOUT, range(6)) as writer:
        writer.write_samples([0], sample_rows([0]))
    with open_evaluation(tmp_path / "run.h5") as file:
        assert not file["samples/state"][:].any()


def test_a_resumed_run_equals_an_unbroken_one(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with EvaluationWriter.create(path, config(12), LAYOUT, range(12), methods=METHODS[:1]) as writer:
        writer.write_samples([7, 2], sample_rows([7, 2]))
        writer.write_method("absLRP", [2], method_rows([2], ABSLRP))
        writer.commit()
    with EvaluationWriter.resume(path, config(12), LAYOUT, methods=METHODS) as writer:
        write_all(writer)
    assert_same(path, whole)


def test_a_stream_ends_in_the_same_content(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "stream.h5"
    with EvaluationWriter.create(path, STREAM, LAYOUT, methods=METHODS) as writer:
        for start in (0, 4, 8):
            rows = writer.extend(range(start, start + 4))
            assert rows.tolist() == list(range(start, start + 4))
        write_all(writer)
        with pytest.raises(StoreError, match="the next one is 12, not 5"):
            writer.extend([5])
    found, wanted = contents(path), contents(whole)
    for name in wanted.keys() - {"@config", "@config_sha256"}:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    with EvaluationWriter.resume(whole, config(12), LAYOUT) as writer, pytest.raises(StoreError, match="not for a str"):
        writer.extend([12])
    with pytest.raises(StoreError, match="leave <index> out"):
        EvaluationWriter.create(tmp_path / "other.h5", STREAM, LAYOUT, range(4))


@pytest.mark.parametrize("ending", ["stopped", "ended"])
def test_a_stream_that_outgrows_its_rows_goes_on_where_it_was_stopped(tmp_path: Path, ending: str) -> None:
    once, path, count = tmp_path / "once.h5", tmp_path / "run.h5", 3 * build.STREAM_ROWS + 1
    with EvaluationWriter.create(once, STREAM, LAYOUT, methods=METHODS) as writer:
        writer.extend(range(count))
        write_all(writer)
    with EvaluationWriter.create(path, STREAM, LAYOUT, methods=METHODS) as writer:
        writer.extend(range(build.STREAM_ROWS + 1))
        write_all(writer, finish=ending == "ended")
        writer.extend(range(build.STREAM_ROWS + 1, build.STREAM_ROWS + 3))  # not written
    with EvaluationWriter.resume(path, STREAM, LAYOUT, methods=METHODS) as writer:
        assert writer.index.tolist() == list(range(build.STREAM_ROWS + 1))
        assert writer.sample_states().tolist() == [State.DONE] * (build.STREAM_ROWS + 1)
        writer.extend(range(build.STREAM_ROWS + 1, count))
        write_all(writer)
    assert_same(path, once)
    with open_evaluation(path) as file:
        validate(file)


def test_a_stream_of_format_1_stays_of_that_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    with monkeypatch.context() as patch:
        patch.setattr(build, "FORMAT_VERSION", 1)
        EvaluationWriter.create(path, STREAM, LAYOUT, methods=METHODS).close()
    with EvaluationWriter.resume(path, STREAM, LAYOUT, methods=METHODS) as writer:
        writer.extend(range(build.STREAM_ROWS + 1))
        write_all(writer)
    assert read_format(path) == 1
    assert damaged_blocks(path) is None, "it has no seal"


def test_a_stream_that_finds_no_room_to_grow_is_whole_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    with EvaluationWriter.create(path, STREAM, LAYOUT, methods=METHODS) as writer:
        writer.extend(range(build.STREAM_ROWS))
        write_all(writer, finish=False)
        with monkeypatch.context() as patch:
            patch.setattr(extending, "copy_rows", no_room)
            with pytest.raises(OutputError, match=r"run\.h5: No space left on device"):
                writer.extend([build.STREAM_ROWS])
        assert writer.sample_states().all()
        assert os.listdir(tmp_path) == ["run.h5"]
        writer.extend([build.STREAM_ROWS])
        write_all(writer)
    with open_evaluation(path) as file:
        validate(file)
        assert is_complete(file)
        assert file["sample"][-1] == build.STREAM_ROWS


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_failed_rows_are_told_and_can_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with EvaluationWriter.create(path, config(2), LAYOUT, range(2), methods=[CONSTANT]) as writer:
        writer.write_samples(slice(None), sample_rows(range(2)))
        writer.write_method("constant", [0], method_rows([0], CONSTANT))
        writer.write_method("constant", [1], {"state": State.FAILED, "message": "out of memory \0 \udcff"})
        writer.finish()
        writer.write_method("constant", [1], method_rows([1], CONSTANT))  # makes the row absent before it is written
        assert writer.method_states("constant").tolist() == [1, 0]
    with open_evaluation(path) as file:
        assert not is_complete(file)
        assert file["methods/constant/message"].asstr()[1] == ""
    with EvaluationWriter.resume(path, config(2), LAYOUT) as writer:
        writer.write_method("constant", [1], {"state": State.FAILED, "message": "out of memory \0 \udcff"})
        writer.finish()
    with open_evaluation(path) as file:
        assert file["methods/constant/message"].asstr()[1] == r"out of memory \0 \udcff"


def test_methods_are_added_and_refused(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(whole.read_bytes())
    for refused, words in (
        (Method("constant", {"control": "constant", "value": 2}), r"config.value is nothing in the file and 2 now"),
        (Method("constant", CONSTANT.config, maps="summed"), r'maps is null in the file and "summed" now'),
    ):
        with pytest.raises(ConfigurationError, match=words):
            EvaluationWriter.resume(path, config(12), LAYOUT, methods=[Method("new", {}), refused])
    assert path.read_bytes() == whole.read_bytes()
    added = [CONSTANT, Method("another", {}, maps="channels"), Method("third", {})]
    with EvaluationWriter.resume(path, config(12), LAYOUT, methods=added) as writer:
        assert set(writer.methods) == {"absLRP", "another", "constant", "third"}
        assert writer.method_states("constant").all()
        relevance = np.ones((12, 3, SIDE, SIDE))
        writer.write_method("another", range(12), method_rows(range(12), CONSTANT) | {"relevance": relevance})
        with pytest.raises(StoreError, match="12 of method third"):
            writer.finish()
        writer.write_method("third", range(12), method_rows(range(12), CONSTANT))
        writer.finish()
    with open_evaluation(path) as file:
        validate(file)
        assert file["methods/another/maps/relevance"].shape == (12, 3, SIDE, SIDE)
    assert os.listdir(tmp_path) == ["run.h5"]


def test_without_room_for_the_copy_no_method_is_added(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(whole.read_bytes())
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match=r"needs .* MB beside it, and 0.0 MB are free. The file is as it was"):
        EvaluationWriter.resume(path, config(12), LAYOUT, methods=[Method("another", {})])
    assert path.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["run.h5"]


def test_long_strings_are_cut_at_a_character(tmp_path: Path) -> None:
    layout = Layout((4, 4), 2, name_length=12)
    names = ["a/b/c/012.png", "b/012345.png", "äöü/äöü.png", ""]
    with EvaluationWriter.create(tmp_path / "run.h5", config(4), layout, range(4)) as writer:
        writer.write_samples(range(4), {"state": 2, "message": ["é" * 200, "é" * 201, "aé" * 200, ""], "name": names})
        writer.finish()
    with open_evaluation(tmp_path / "run.h5") as file:
        validate(file)
        assert read_layout(file) == layout
        assert file["samples/name"].asstr()[:].tolist() == ["…c/012.png", "b/012345.png", "…öü.png", ""]
        whole_one, *cut, empty = file["samples/message"].asstr()[:].tolist()
    assert (whole_one, empty) == ("é" * 200, "")
    assert cut == ["é" * 198 + "…", "aé" * 132 + "a…"]
    assert name_length(names) == 17
    assert name_length(["a"]) == 8
    assert name_length([]) == Layout.name_length


def test_another_configuration_is_refused(whole: Path) -> None:
    with pytest.raises(ConfigurationError, match="seed is 0 in the file and 1 now") as caught:
        EvaluationWriter.resume(whole, config(12, seed=1, model={"name": "other", "sha256": "0" * 64}), LAYOUT)
    assert 'model.name is "tiny" in the file and "other" now' in str(caught.value)
    assert "sha256" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"size is \[6, 6\] in the file and \[6, 7\] now"):
        EvaluationWriter.resume(whole, config(12), Layout((6, 7), CLASSES, LAYOUT.class_names))
    with pytest.raises(OutputError, match="exists: pass resume=True or overwrite=True"):
        EvaluationWriter.create(whole, config(12), LAYOUT, range(12))


def test_differences_tell_types_and_lists_apart() -> None:
    assert differences({"a": 1, "b": [1, {"c": 2}]}, {"a": True, "b": [1, {"c": 3}]}) == {
        "a": ("1", "true"),
        "b[1].c": ("2", "3"),
    }
    assert differences({}, {}) == {}
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
    for wrong in (float("nan"), object(), np.float32(1)):
        with pytest.raises(ConfigurationError, match="JSON"):
            canonical_json({"a": wrong})


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ([0], {"gea": [1.0]}, "no data set 'gea'; near names: gae"),
        ([0], {"gae": [1.0, 2.0]}, r"takes \(1,\)"),
        ([0], {"gae": ["high"]}, "takes float32"),
        ([0], {"flags": [256]}, "takes uint8"),
        ([0], {"state": [0]}, "done"),
        ([0], {"message": [3]}, "takes strings"),
        ([0], {"gae": None}, "takes float32"),
        ([0, 0], {}, "twice"),
        ([12], {}, "not among"),
        ([-1], {}, "not among"),
        ([0.5], {}, "whole numbers"),
        ([0], {"relevance": np.full((1, SIDE, SIDE), np.nan)}, "NaN"),
        ([0], {"relevance": np.ones((1, SIDE, SIDE + 1))}, "takes"),
        ([0], {"relevance": np.ones((SIDE, SIDE))}, "maps"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, rows: list[int], changes: dict[str, Any], words: str
) -> None:
    with EvaluationWriter.create(tmp_path / "run.h5", config(3), LAYOUT, range(3), methods=[ABSLRP]) as writer:
        given = method_rows([0] * len(rows), ABSLRP) | changes
        with pytest.raises(StoreError, match=words):
            writer.write_method("absLRP", rows, given)
        writer.commit()
        assert not writer.method_states("absLRP").any()
        assert np.isnan(writer.read_method("absLRP", slice(None), ["gae"])["gae"]).all()


def test_done_rows_come_whole(tmp_path: Path) -> None:
    with EvaluationWriter.create(tmp_path / "run.h5", config(3), LAYOUT, range(3), methods=[ABSLRP]) as writer:
        rows = method_rows([0], ABSLRP)
        with pytest.raises(StoreError, match="come with relevance"):
            writer.write_method("absLRP", [0], {name: rows[name] for name in rows if name != "relevance"})
        with pytest.raises(StoreError, match="come with gae"):
            writer.write_method("absLRP", [0], {name: rows[name] for name in rows if name != "gae"})
        with pytest.raises(StoreError, match="no method 'abslrp'; near names: absLRP"):
            writer.write_method("abslrp", [0], rows)
        with pytest.raises(StoreError, match="settled"):
            writer.write_samples([0], sample_rows([0]) | {"index": [1]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"index": [1, 0]}, "ascending"),
        ({"config": {"samples": 3}}, "shard"),
        ({"config": {"shard": [1, 1], "samples": 3}}, "counts from 0"),
        ({"config": {"shard": [0, 1]}}, "samples"),
        ({"layout": Layout((4, 4), 2, ("a",))}, "2 classes and 1 names"),
        ({"layout": Layout((4, 4), 2, level=0)}, "levels"),
        ({"methods": [CONSTANT, CONSTANT]}, "same name"),
        ({"methods": [Method("a/b", {})]}, "can't be called"),
        ({"methods": [Method("a", {"x": object()})]}, "JSON"),
    ],
)
def test_a_file_that_can_not_be_is_not_begun(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    given = {"config": config(3), "layout": LAYOUT, "index": range(3), "methods": METHODS} | changes
    with pytest.raises(StoreError, match=words):
        EvaluationWriter.create(tmp_path / "run.h5", **given)
    assert not os.listdir(tmp_path)


def test_released_runs_and_float64_have_their_own_types(tmp_path: Path) -> None:
    layout = Layout((4, 4), 2, channels=3, elements=True, precision="float64")
    with EvaluationWriter.create(tmp_path / "run.h5", config(1), layout, range(1), methods=[CONSTANT]) as writer:
        assert read_layout(writer._file) == layout
        writer.write_method("constant", [0], method_rows([0], CONSTANT) | {"gae": [0.1]})
        writer.commit()
    with open_evaluation(tmp_path / "run.h5") as file:
        validate(file)
        assert file["methods/constant/gae"][0] == 0.1
        assert file["samples/steps"].shape == (1, 2, 3, 4, 4)


def test_what_can_not_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*nowhere$"):
        EvaluationWriter.create(tmp_path / "nowhere" / "run.h5", config(3), LAYOUT, range(3))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        EvaluationWriter.create(tmp_path / "file" / "run.h5", config(3), LAYOUT, range(3))
