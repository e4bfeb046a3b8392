"""The HDF5 file of an evaluation: what is committed stays, whatever happens, and what is wrong is said."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import h5py
import numpy as np
import pytest

from relprop import gae
from relprop.extras import MissingExtraError
from relprop.files import OutputError
from relprop.store import (
    FLAGS,
    BusyError,
    ConfigurationError,
    EvaluationWriter,
    FormatError,
    Layout,
    MergeError,
    Method,
    MissingFileError,
    State,
    StoreError,
    is_complete,
    merge,
    method_names,
    name_length,
    open_evaluation,
    read_layout,
    read_method,
    schema,
    validate,
)
from relprop.store.config import canonical_json, differences
from tests.helpers.paths import ROOT
from tests.helpers.store_files import (
    CLASSES,
    LAYOUT,
    METHODS,
    SIDE,
    config,
    method_rows,
    sample_rows,
    write_all,
    write_file,
)

ABSLRP, CONSTANT = METHODS
GOLDEN = ROOT / "tests" / "golden" / "evaluation-v1.h5"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("store") / "whole.h5", range(12), config(12))


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


# --- what a file is ---------------------------------------------------------------------------------------------------


def test_the_specification_agrees_with_the_metric() -> None:
    assert {flag.name.lower(): flag.value for flag in gae.Flag if flag.name} == FLAGS
    assert schema.ORDERS == gae.ORDERS
    assert schema.STATES == gae.STATES


def test_a_complete_file_is_valid_and_holds_what_was_written(whole: Path) -> None:
    rows, scores = sample_rows(range(12)), method_rows(range(12), ABSLRP)
    with open_evaluation(whole) as file:
        validate(file)
        assert is_complete(file)
        assert read_layout(file) == LAYOUT
        assert [read_method(file, name) for name in method_names(file)] == list(METHODS)
        np.testing.assert_array_equal(file["sample"][:], np.arange(12))
        assert list(file["samples/name"].asstr()) == rows.pop("name")
        for name, values in rows.items():
            np.testing.assert_array_equal(file["samples"][name][:], values, err_msg=name)
        maps = np.array(scores.pop("relevance"))
        group = file["methods/absLRP"]
        for name, values in scores.items():
            np.testing.assert_array_equal(group[name][:], np.asarray(values, "f4"), err_msg=name)
        np.testing.assert_array_equal(group["maps/scale"][:], np.abs(maps).max((1, 2)))
        kept = group["maps/relevance"][:].astype("f8") * group["maps/scale"][:][:, None, None]
        assert np.abs(kept - maps).max() <= 2**-11 * np.abs(maps).max()
        assert np.isnan(group["seconds"][:]).all()
        assert "maps" not in file["methods/constant"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.attrs.pop("versions"), "no attribute versions"),
        (lambda file: file.attrs.modify("config", '{"seed":1}'), "config_sha256 of the root"),
        (lambda file: file.pop("methods/absLRP/gae"), "no data set methods/absLRP/gae"),
        (lambda file: file["samples/state"].write_direct(np.full(12, 9, "u1")), "codes that stand for nothing"),
        (lambda file: file["samples/state"].write_direct(np.zeros(12, "u1")), "complete is 1 and 12 rows are absent"),
        (lambda file: file["sample"].write_direct(np.zeros(12, "i8")), "ascending"),
        (lambda file: file["samples/logit"].attrs.pop("units"), "samples/logit has no attribute units"),
        (lambda file: file["samples/logit"].attrs.pop("DIMENSION_LIST"), "samples/logit has no scale order at axis 1"),
        (lambda file: file.pop("methods/constant/sample"), "has no sample beside it"),
    ],
)
def test_validate_says_what_is_wrong(whole: Path, tmp_path: Path, change: Any, words: str) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(whole.read_bytes())
    with h5py.File(copy, "r+") as file:
        change(file)
    with h5py.File(copy) as file, pytest.raises(FormatError, match=words):
        validate(file)


def test_the_golden_file_stays_readable() -> None:
    assert GOLDEN.stat().st_size < 80_000
    with open_evaluation(GOLDEN) as file:
        validate(file)
        assert file.attrs["format_version"] == 1
        assert is_complete(file)
        assert method_names(file) == ("absLRP", "constant")
        assert list(file["class"].asstr()) == ["cat", "dög", "fish"]
        samples, group = file["samples"], file["methods/absLRP"]
        assert samples["state"][:].tolist() == [1, 1, 1, 2]
        assert samples["message"].asstr()[3] == "not a picture ✗"
        assert samples["name"].asstr()[1] == "pictures/001.png"
        assert samples["mosaic_members"][2].tolist() == [2, 3, 4, 5]
        assert samples["steps"][1, 0, 0].tolist() == [4, 3, 1, 10, 8, 7]
        assert samples["impact"][2, 5].tolist() == [1, 0, 0, -1, -1, 1]
        assert samples["logit"][0, 1, 9] == np.float32(0.35084242)
        assert samples["output"][2].tolist() == np.float32([54 / 1009, 910 / 1009, 757 / 1009]).tolist()
        assert group["gae"][:3].tolist() == np.float32([294 / 1009, 87 / 1009, 889 / 1009]).tolist()
        assert np.isnan(group["gae"][3])
        assert group["pointing"].attrs["direction"] == "higher is better"
        assert group["map_change"][1, 1, 8] == np.float32(0.13181368)
        assert group["maps/scale"][1] == np.float32(6.88107e-06)
        assert group["maps/relevance"][1, 2, 3] == np.float16(0.4282)
        assert read_method(file, "constant").config == {"control": "constant"}


# --- how it comes about -----------------------------------------------------------------------------------------------


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
    with EvaluationWriter.create(path, config(12), LAYOUT, methods=METHODS) as writer:
        for start in (0, 4, 8):
            rows = writer.extend(range(start, start + 4))
            assert rows.tolist() == list(range(start, start + 4))
        write_all(writer)
        with pytest.raises(StoreError, match="above 11"):
            writer.extend([5])
    assert_same(path, whole)
    with EvaluationWriter.resume(whole, config(12), LAYOUT) as writer, pytest.raises(StoreError, match="not for a str"):
        writer.extend([12])


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
    with pytest.raises(OutputError, match="exists already"):
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


# --- who else is there, and files that are not ours -------------------------------------------------------------------


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


def test_one_writer_and_no_readers_beside_it(whole: Path) -> None:
    elsewhere = "import sys; from relprop.store import *\ntry: {}\nexcept BusyError as error: print(error)"
    with EvaluationWriter.resume(whole, config(12), LAYOUT):
        for what, words in (
            (lambda: EvaluationWriter.resume(whole, config(12), LAYOUT), "one writer"),
            (lambda: EvaluationWriter.create(whole, config(12), LAYOUT, overwrite=True), "one writer"),
            (lambda: open_evaluation(whole), "is being written"),
            (lambda: merge([whole], whole, overwrite=True), "one writer"),
        ):
            with pytest.raises(BusyError, match=words):
                what()
        assert "is being written" in python(elsewhere.format("open_evaluation(sys.argv[1])"), whole).communicate()[0]
        second = python(elsewhere.format("EvaluationWriter.resume(sys.argv[1], {}, None)"), whole)
        assert "one writer" in second.communicate()[0]
    with open_evaluation(whole), open_evaluation(whole), pytest.raises(BusyError, match="open elsewhere"):
        EvaluationWriter.resume(whole, config(12), LAYOUT)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forks_of_a_killed_writer_do_not_keep_its_file_from_being_resumed(whole: Path) -> None:
    write_and_fork = f"""
        import os, signal, sys
        from relprop.store import EvaluationWriter
        from tests.helpers.store_files import LAYOUT, config
        writer = EvaluationWriter.resume({str(whole)!r}, config(12), LAYOUT)
        child = os.fork()
        if not child:
            os.close(1)
            os.close(2)
            signal.pause()
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    output, errors = python(dedent(write_and_fork)).communicate()
    child = int(output)
    try:
        with EvaluationWriter.resume(whole, config(12), LAYOUT):
            os.kill(child, 0)  # it is alive
    finally:
        os.kill(child, signal.SIGKILL)
    assert not errors


def test_without_locks_it_works_and_says_so(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    with (
        pytest.warns(UserWarning, match="nothing keeps a second writer away"),
        EvaluationWriter.resume(whole, config(12), LAYOUT) as writer,
    ):
        assert writer.sample_states().all()


def test_files_that_can_not_be_read_say_why(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    for name, content, words in (
        ("truncated.h5", data[: len(data) // 2], "truncated"),
        ("empty.h5", b"", "empty"),
        ("text.h5", b"not at all\n" * 100, "not an HDF5 file"),
    ):
        (tmp_path / name).write_bytes(content)
        for opening in (open_evaluation, lambda path: EvaluationWriter.resume(path, config(12), LAYOUT)):
            with pytest.raises(FormatError, match=words):
                opening(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(MissingFileError, match=r"there is no file .*nothing.h5"):
        open_evaluation(tmp_path / "nothing.h5")
    with pytest.raises(FormatError, match="folder"):
        open_evaluation(tmp_path)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["maps"] = np.arange(3)
    with pytest.raises(FormatError, match="not a file of an evaluation"):
        open_evaluation(foreign)
    newer = tmp_path / "newer.h5"
    newer.write_bytes(data)
    with h5py.File(newer, "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(FormatError, match="has format version 2, and this relprop reads up to 1"):
        open_evaluation(newer)


def test_what_can_not_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*nowhere$"):
        EvaluationWriter.create(tmp_path / "nowhere" / "run.h5", config(3), LAYOUT, range(3))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        EvaluationWriter.create(tmp_path / "file" / "run.h5", config(3), LAYOUT, range(3))


FULL_DISK = """
import resource, sys
from pathlib import Path
from relprop.files import OutputError
from relprop.store import EvaluationWriter
from tests.helpers.store_files import LAYOUT, METHODS, config, method_rows, sample_rows
path = Path(sys.argv[1])
writer = EvaluationWriter.create(path, config(4000), LAYOUT, range(4000), methods=METHODS)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 400_000,) * 2)
try:
    for start in range(0, 4000, 100):
        rows = range(start, start + 100)
        writer.write_samples(rows, sample_rows(rows))
        writer.write_method("absLRP", rows, method_rows(rows, METHODS[0]))
        writer.commit()
        print(start + 100, flush=True)
    writer.finish()
except OutputError as error:
    print(error)
writer.close()
"""


def test_a_full_disk_is_said_and_takes_nothing_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    out, error = python(FULL_DISK, path).communicate()
    *counts, message = out.splitlines()
    assert error == ""
    assert message.startswith(f"cannot write {path}: File too large")
    done = int(counts[-1])
    assert 100 <= done < 4000
    with open_evaluation(path) as file:
        validate(file)
        assert not is_complete(file)
        assert file["methods/absLRP/state"][:].tolist() == [1] * done + [0] * (4000 - done)
        last = slice(done - 100, done)
        np.testing.assert_array_equal(file["samples/steps"][last], sample_rows(range(done - 100, done))["steps"])
    with EvaluationWriter.resume(path, config(4000), LAYOUT) as writer:  # there is room now
        writer.write_samples([3999], sample_rows([3999]))
        writer.commit()
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000,) * 2)\n{FULL_DISK}"
    out, error = python(limited.replace("writer = E", "E"), tmp_path / "other.h5").communicate()
    assert "OutputError: cannot write" in error.splitlines()[-1]
    assert os.listdir(tmp_path) == ["run.h5"]


KILLED = """
import sys
from relprop.store import EvaluationWriter
from tests.helpers.store_files import LAYOUT, METHODS, config, write_all

class Telling(EvaluationWriter):
    def commit(self):
        super().commit()
        print("committed", flush=True)

with Telling.resume(sys.argv[1], config(100), LAYOUT) as writer:
    write_all(writer)
"""


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    path, unbroken = tmp_path / "run.h5", tmp_path / "unbroken.h5"
    EvaluationWriter.create(path, config(100), LAYOUT, range(100), methods=METHODS).close()
    random = np.random.default_rng(int.from_bytes(os.urandom(4)))
    done = 0
    for _ in range(10):
        process = python(KILLED, path)
        assert process.stdout is not None
        for _ in range(random.integers(1, 10)):
            assert process.stdout.readline() == "committed\n", process.communicate()[1]
        time.sleep(random.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with open_evaluation(path) as file:
            validate(file)
            assert bool(file.attrs["complete"]) == all(
                file[group]["state"][:].all() for group in ("samples", "methods/absLRP", "methods/constant")
            )
            for group, wanted in (
                (file["samples"], sample_rows(range(100))),
                (file["methods/absLRP"], method_rows(range(100), ABSLRP)),
            ):
                rows = np.flatnonzero(group["state"][:])
                for name in sorted(set(wanted) - {"relevance", "name"}):
                    values = np.asarray(wanted[name], group[name].dtype)
                    np.testing.assert_array_equal(group[name][:][rows], values[rows])
            kept = int(file["samples/state"][:].sum())
        assert kept >= done
        done = kept
    assert done > 0
    with EvaluationWriter.resume(path, config(100), LAYOUT) as writer:
        write_all(writer)
    assert_same(path, write_file(unbroken, range(100), config(100)))


# --- shards -----------------------------------------------------------------------------------------------------------


def shards(folder: Path, count: int = 12, parts: int = 3, **changes: Any) -> list[Path]:
    return [
        write_file(folder / f"shard{part}.h5", range(part, count, parts), config(count, (part, parts), **changes))
        for part in range(parts)
    ]


@pytest.mark.parametrize("block", [1 << 24, 100])
def test_merged_shards_equal_the_single_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(sys.modules["relprop.store.merge"], "READ_AT_ONCE", block)
    parts = shards(tmp_path)
    merge(parts[::-1], tmp_path / "merged.h5")
    assert_same(tmp_path / "merged.h5", whole)
    with open_evaluation(tmp_path / "merged.h5") as file:
        validate(file)
    with pytest.raises(OutputError, match="exists already"):
        merge(parts, tmp_path / "merged.h5")


def test_files_that_are_not_the_shards_of_one_run_are_refused(whole: Path, tmp_path: Path) -> None:
    parts = shards(tmp_path)
    others = tmp_path / "others"
    others.mkdir()
    other_seed = shards(others, seed=1)[1]
    overlap = write_file(tmp_path / "overlap.h5", [0, 1, 4, 7, 10], config(12, (1, 3)))
    gap = write_file(tmp_path / "gap.h5", [1, 4, 7], config(12, (1, 3)))
    beyond = write_file(tmp_path / "beyond.h5", [1, 4, 7, 10, 13], config(12, (1, 3)))
    more = tmp_path / "more.h5"
    more.write_bytes(parts[1].read_bytes())
    EvaluationWriter.resume(more, config(12, (1, 3)), LAYOUT, methods=[Method("more", {})]).close()
    incomplete = tmp_path / "incomplete.h5"
    incomplete.write_bytes(more.read_bytes())
    with EvaluationWriter.resume(more, config(12, (1, 3)), LAYOUT) as writer:
        writer.write_method("more", slice(None), method_rows(writer.index.tolist(), CONSTANT))
        writer.finish()
    out = tmp_path / "out.h5"
    for chosen, words in (
        ([], "no shards"),
        ([parts[0], parts[2]], "missing: 1"),
        ([*parts, parts[0]], "both shard 0"),
        ([parts[0], other_seed, parts[2]], "seed is 0 in .* and 1 in"),
        ([parts[0], overlap, parts[2]], "1 samples are in two shards, the first with index 0"),
        ([parts[0], gap, parts[2]], "1 samples are in no shard, the first with index 10"),
        ([parts[0], beyond, parts[2]], "13 samples, and the data set 12"),
        ([parts[0], incomplete, parts[2]], "not complete"),
        ([parts[0], more, parts[2]], "do not both have the methods more"),
        ([whole, *parts], "shard is 1 in .* and 3 in"),
    ):
        with pytest.raises(MergeError, match=words):
            merge(chosen, out)
        assert not out.exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


# --- other programs ---------------------------------------------------------------------------------------------------


def test_zstd_needs_its_package_to_write_and_to_read(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(h5py.h5z, "filter_avail", lambda code: False)
        patch.setitem(sys.modules, "hdf5plugin", None)
        with pytest.raises(MissingExtraError, match=r"relprop\[zstd\]"):
            EvaluationWriter.create(tmp_path / "a.h5", config(12), Layout((4, 4), 2, compression="zstd"), range(12))
    assert not os.listdir(tmp_path)
    pytest.importorskip("hdf5plugin")
    layout = Layout((SIDE, SIDE), CLASSES, LAYOUT.class_names, compression="zstd", level=3)
    path = write_file(tmp_path / "zstd.h5", range(12), config(12), layout)
    assert_same(path, whole)
    with open_evaluation(path) as file:
        assert read_layout(file) == layout
    with monkeypatch.context() as patch:
        patch.setattr(h5py.h5z, "filter_avail", lambda code: False)
        patch.setitem(sys.modules, "hdf5plugin", None)
        with pytest.raises(MissingExtraError, match=r"zstd.h5, compressed with zstd, needs hdf5plugin"):
            open_evaluation(path)


XARRAY = """
import sys
import numpy as np, xarray
path, engine = sys.argv[1:]
with xarray.open_dataset(path, engine=engine) as root:
    assert root.attrs["complete"] == 1 and list(root["class"].values) == ["cat", "dög", "fish"]
with xarray.open_dataset(path, engine=engine, group="samples") as samples:
    samples.load()
    assert samples["logit"].dims == ("sample", "order", "masking_state")
    names = samples["name"] if engine == "netcdf4" else samples["name"].str.decode("utf-8")
    assert names.sel(sample=3) == "pictures/003.png"
with xarray.open_dataset(path, engine=engine, group="methods/absLRP") as method:
    method.load()
    assert dict(method.sizes) == {"sample": 12, "order": 2, "masked_state": 9}
    assert method["map_change"].sel(order="lerf", masked_state=9).dims == ("sample",)
    assert method["gae"].dtype == np.float32 and method["gae"].attrs["direction"] == "higher is better"
    assert method["sample"].values.tolist() == list(range(12))
    print(float(method["gae"].sel(sample=5)))
if engine == "h5netcdf":
    with xarray.open_dataset(path, engine=engine, group="methods/absLRP/maps") as maps:
        assert (maps["relevance"].astype("f4") * maps["scale"]).dims == ("sample", "y", "x")
"""


@pytest.mark.parametrize(("engine", "package"), [("h5netcdf", "h5netcdf"), ("netcdf4", "netCDF4")])
def test_xarray_opens_groups_with_coordinates(whole: Path, engine: str, package: str) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip(package)
    process = python(XARRAY, whole, engine)  # apart: both libraries bring an HDF5 of their own
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert float(out) == np.float32(method_rows([5], ABSLRP)["gae"][0])


def test_the_store_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import relprop.store; print(relprop.store.State.DONE)"
    assert python(code).communicate() == ("1\n", "")
