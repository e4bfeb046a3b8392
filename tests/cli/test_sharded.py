"""Maps of many pictures in shards with one index: the maps of a run without shards, whatever becomes of the run."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from relprop.cli.explain import SHARDED
from relprop.cli.explaining.sharded.folder import ShardedFolder
from relprop.cli.explaining.sharded.storage import ENDINGS, Sample, make_sample
from relprop.cli.explaining.sharded.working import WorkingFile, samples_of
from relprop.files import OutputError
from tests.helpers.cli import assert_one_line, entries, explain
from tests.helpers.paths import ROOT

OWN = ("--model", "own:make", "-q")
SMALL = ("--shard-size", "4", "--batch-size", "2")
COUNT, BROKEN = 11, 5


@pytest.fixture
def pictures(desk: Path) -> Path:
    """A folder of pictures, one of which is none."""
    folder = desk / "pictures"
    folder.mkdir()
    random = np.random.default_rng(1)
    for k in range(COUNT):
        pixels = cv2.resize(random.integers(0, 256, (6, 6, 3), np.uint8), (64, 64))
        assert cv2.imwrite(str(folder / f"{k:02}.png"), pixels)
    (folder / f"{BROKEN:02}.png").write_bytes(b"no picture")
    return Path("pictures")


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    """A refused run leaves what the other has, and what nobody wrote to goes with the last of them."""
    folder = ShardedFolder(tmp_path / "new" / "out")
    with folder.held():
        with pytest.raises(OutputError, match="out is being written by another relprop: wait"), folder.held():
            pytest.fail("two runs have one folder")
        assert folder.parts.is_dir()
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = ShardedFolder(tmp_path / "file" / "out")
    with pytest.raises(OutputError, match=r"cannot write to .*file/out: Not a directory"), folder.held():
        pytest.fail("there is no such folder")


@pytest.mark.full
def test_shards_hold_the_maps_of_a_run_without_them(pictures: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the extra test brings webdataset")
    assert explain(str(pictures), *OWN, "--format", "npz", "-o", "plain").exit_code == 1
    maps = {e["file"]: np.load(f"plain/{e['paths']['npz']}")["relevance"] for e in entries("plain") if "paths" in e}
    told = {e["file"]: e for e in entries("plain")}

    found = explain(str(pictures), *OWN, *SMALL, "--format", "webdataset", "-o", "tars", "--map-type", "float32")
    assert found.exit_code == 1
    assert "05.png" in found.stderr
    assert files("tars") == ["index.parquet", "run.json", "run.toml", *(f"shard-00000{k}.tar" for k in range(3))]
    index = pd.read_parquet("tars/index.parquet")
    assert list(index["file"]) == [f"pictures/{k:02}.png" for k in range(COUNT)]
    assert list(index["state"]) == ["failed" if k == BROKEN else "done" for k in range(COUNT)]
    failed = index[index["state"] == "failed"].iloc[0]
    assert "cannot read picture" in failed["message"]
    assert pd.isna(failed["shard"])
    read = webdataset.WebDataset("tars/shard-{000000..000002}.tar", shardshuffle=False).decode()
    samples = {sample["json"]["file"]: sample for sample in read}
    assert samples.keys() == maps.keys()
    for row in index[index["state"] == "done"].itertuples():
        sample, entry = samples[row.file], told[row.file]
        assert sample["__key__"] == row.key
        np.testing.assert_allclose(sample["npy"], maps[row.file][0].sum(0), rtol=1e-4, atol=1e-9)
        assert (sample["json"]["target"], row.target, row.label) == (entry["target"],) * 2 + (entry["label"],)
        assert row.probability == pytest.approx(entry["probability"], rel=1e-5)
        assert row.lost == pytest.approx(entry["lost"], abs=1e-6)
        assert row.caution == sample["json"]["caution"]

    options = ("--format", "shards", "--relevance", "channels", "-o", "h5s", "--target", "top2")
    assert explain(str(pictures), *OWN, *SMALL, *options).exit_code == 1
    index = pd.read_parquet("h5s/index.parquet").query("state == 'done'")
    assert len(index) == 2 * (COUNT - 1)
    for row in index.itertuples():
        with h5py.File(Path("h5s", row.shard)) as file:
            assert file["key"].asstr()[row.row] == row.key
            assert file["relevance"].dtype == np.float16
            heat = file["relevance"][row.row].astype(np.float32) * file["scale"][row.row]
            assert json.loads(file["about"].asstr()[row.row])["label"] == row.label
        if row.key.endswith("-00"):
            largest = np.abs(maps[row.file]).max()
            np.testing.assert_allclose(heat, maps[row.file][0], rtol=2e-3, atol=1e-4 * largest)


@pytest.mark.full
def test_crops_go_to_shards_whatever_the_sizes_of_pictures(desk: Path) -> None:
    assert explain("cat.jpg", "holiday", *OWN, "--crops", "1", "--format", "shards", "-o", "out").exit_code == 0
    assert explain("cat.jpg", "holiday", *OWN, "--crops", "1", "--format", "npz", "-o", "plain").exit_code == 0
    index = pd.read_parquet("out/index.parquet").set_index("file")
    with h5py.File("out/shard-000000.h5") as file:
        for entry in entries("plain"):
            row = index.loc[entry["file"]]
            heat = np.load(f"plain/{entry['paths']['npz']}")["relevance"]
            values = file["relevance"][row["key"]][()].astype(np.float32) * row["scale"]
            np.testing.assert_allclose(values, heat, rtol=2e-3, atol=1e-4 * np.abs(heat).max())


def command(pictures: Path, output: str, *more: str) -> list[str]:
    return ["explain", str(pictures), "--model", "own:make", *SMALL, "--format", "webdataset", "-o", output, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path.cwd()}",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "relprop", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def assert_same(one: str, other: str) -> None:
    names = [name for name in files(other) if name.endswith((".tar", ".parquet"))]
    assert [name for name in files(one) if name.endswith((".tar", ".parquet"))] == names
    for name in names:
        assert Path(one, name).read_bytes() == Path(other, name).read_bytes(), name


@pytest.mark.full
def test_a_run_that_was_killed_goes_on_in_two_processes_as_if_it_had_not_been(
    pictures: Path,
) -> None:
    assert explain(*command(pictures, "whole", "-q")[1:]).exit_code == 1

    process = start(command(pictures, "out"))
    deadline = time.monotonic() + 300
    while not Path("out/shard-000000.tar").exists() or not Path("out/parts/000001.tar").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("out/index.parquet").exists()
    first = Path("out/shard-000000.tar").stat()

    process = start(command(pictures, "out", "--processes", "2"))
    _, told = process.communicate(timeout=600)
    assert process.returncode == 1, told
    assert_same("out", "whole")
    assert Path("out/shard-000000.tar").stat().st_mtime_ns == first.st_mtime_ns, "a finished shard was done again"
    assert not Path("out/parts").exists()
    kept = [name for name in files("out") if name.endswith((".tar", ".parquet"))]
    times = {name: Path("out", name).stat().st_mtime_ns for name in kept}
    again = explain(*command(pictures, "out")[1:])
    assert again.exit_code == 1, "a picture of the run failed"
    assert {name: Path("out", name).stat().st_mtime_ns for name in kept} == times


def samples() -> list[Sample]:
    heats = np.random.default_rng(0).standard_normal((5, 4, 4)) * 1e-6
    return [make_sample(f"{k:09}", {"number": k}, heat.astype("f4"), "float16") for k, heat in enumerate(heats)]


def test_a_working_file_that_was_cut_anywhere_goes_on_at_a_whole_batch(tmp_path: Path) -> None:
    path, given = tmp_path / "w.tar", samples()

    def fill(working: WorkingFile) -> None:
        while working.done < len(given):
            stop = min(working.done + 2, len(given))
            for sample in given[working.done : stop]:
                working.add(sample)
            working.commit(stop)

    with WorkingFile(path) as working:
        fill(working)
    whole, seen = path.read_bytes(), set()
    for length in [*range(0, len(whole), 171), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with WorkingFile(path) as working:
            seen.add(working.done)
            fill(working)
        assert path.read_bytes() == whole, length
    assert seen == {0, 2, 4}
    found = list(samples_of(path))
    assert [(sample.key, sample.content) for sample in found] == [(one.key, one.content) for one in given]
    for sample, one in zip(found, np.random.default_rng(0).standard_normal((5, 4, 4)) * 1e-6, strict=True):
        heat = sample.values.astype("f4") * sample.entry["scale"]
        np.testing.assert_allclose(heat, one, atol=1e-3 * np.abs(one).max())
    with WorkingFile(path), pytest.raises(OutputError, match="is still being written"), WorkingFile(path):
        pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "shards,png"), "shards goes with no other format"),
        (("--shard-size", "4"), "--shard-size is of --format shards and webdataset"),
        (("--processes", "2"), "--processes is of --format shards and webdataset"),
        (("--format", "shards", "--html"), "--html does not go with --format shards"),
        (("--format", "webdataset", "--layer", "0"), "--layer does not go with --format webdataset"),
        (("--format", "shards", "--processes", "none"), "--processes none: it is a number"),
    ],
)
def test_options_that_have_no_meaning_are_refused(options: tuple[str, ...], words: str) -> None:
    assert_one_line(explain("no_such_folder", *options), words, 2)


def test_the_package_of_the_index_is_missed_before_a_model_is_loaded(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    result = explain("cat.jpg", "--format", "shards", "--model", "no_such_model")
    assert_one_line(result, r'needs pyarrow: pip install "relprop\[analysis\]"')
    assert not Path("out").exists()


@pytest.mark.full
def test_another_run_into_the_folder_is_refused_by_the_names_of_its_options(desk: Path) -> None:
    options = (*OWN, "--format", "shards")
    assert explain("holiday", *options).exit_code == 0
    before = files("out")
    assert_one_line(explain("holiday", *options, "--rules", "epsilon"), 'rules is "abslrp" there and "epsilon" now')
    assert_one_line(explain("cat.jpg", "holiday", *options), "pictures.count is 2 there and 3 now.*--overwrite")
    assert files("out") == before
    assert explain("cat.jpg", *options, "--overwrite").exit_code == 0
    assert len(pd.read_parquet("out/index.parquet")) == 1
    assert_one_line(explain("cat.jpg", *OWN, "--format", "shards", "--model", "own:nothing", "-o", "new"), "nothing")
    assert not Path("new").exists()


def test_each_kind_of_shard_has_an_ending() -> None:
    assert tuple(ENDINGS) == SHARDED
    content: Any = np.load(io.BytesIO(samples()[0].content or b""))
    assert content.dtype == np.float16
