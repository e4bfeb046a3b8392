"""relprop evaluate and relprop merge, run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from relprop.cli import app
from relprop.store import is_complete
from tests.helpers.evaluations import assert_same, contents
from tests.helpers.paths import ROOT

OWN = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 9, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3))
"""

NORMED = """
def normed():
    torch.manual_seed(0)
    first = (nn.Conv2d(3, 6, 9, 6), nn.GroupNorm(2, 6), nn.ReLU())
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3))
"""

PICTURES = 13


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: pictures of three classes, and a model of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(OWN)
    generator = np.random.default_rng(0)
    for k in range(PICTURES):
        file = Path("pictures", f"{k % 3}", f"{k:02}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), generator.integers(0, 256, (30, 40, 3), np.uint8))
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


EVALUATE = ("evaluate", "pictures", "--model", "mine:make", "--preprocessing", "test_vit")
QUICK = (*EVALUATE, "--methods", "gradient,random")


def test_a_run_is_made_and_told(folder: Path) -> None:
    code, out, err = invoke(*QUICK, "-o", "run.h5", "--metrics", "deletion", "--relevance", "map")
    assert (code, err) == (0, "")
    assert f"run.h5: {PICTURES} samples" in out
    options = tomllib.loads(Path("run.h5.toml").read_text())["evaluate"]
    assert (options["data"], options["method"], options["relevance"]) == ("pictures", ["gradient,random"], "map")
    assert invoke("evaluate", "--config", "run.h5.toml", "-o", "again.h5", "--quiet") == (0, "", "")
    assert_same(contents(Path("run.h5")), contents(Path("again.h5")))
    assert f"gradient  {PICTURES} scored" in out
    with h5py.File("run.h5") as file:
        assert is_complete(file)
        assert sorted(file["methods"]) == ["gradient", "random"]
        assert file["samples/label"][:].tolist() == [int(name[0]) for name in file["samples/name"].asstr()]
        assert "deletion" in file["methods/gradient"]
        assert "maps" in file["methods/gradient"]


@pytest.mark.full
def test_options_given_again_add_to_lists(folder: Path) -> None:
    methods = ("--methods", "gradient", "-m", "random,captum.Saliency:abs=false")
    metrics = ("--metrics", "deletion", "--metrics", "insertion,srg")
    code, out, err = invoke(*EVALUATE, *methods, *metrics, "-o", "run.h5", "--json")
    assert (code, err) == (0, "")
    assert list(json.loads(out)["methods"]) == ["captum.Saliency:abs=false", "gradient", "random"]
    with h5py.File("run.h5") as file:
        assert {"deletion", "insertion", "srg"} <= set(file["methods/random"])


@pytest.mark.full
def test_shards_are_merged_on_the_command_line(folder: Path) -> None:
    for part in range(2):
        assert invoke(*QUICK, "-o", f"{part}.h5", "--shard", f"{part}/2")[0] == 0
    code, out, _ = invoke("merge", "0.h5", "1.h5", "-o", "merged.h5")
    assert (code, out) == (0, f"merged.h5: {PICTURES} samples of 2 shards; methods gradient, random\n")
    assert invoke(*QUICK, "-o", "whole.h5")[0] == 0
    assert_same(contents(Path("merged.h5")), contents(Path("whole.h5")))
    code, _, err = invoke("merge", "0.h5", "-o", "half.h5")
    assert code == 1
    assert err.startswith("relprop: ")
    assert not Path("half.h5").exists()
    before = Path("0.h5").read_bytes()
    code, _, err = invoke("merge", "0.h5", "1.h5", "-o", str(folder / "0.h5"), "--overwrite")
    assert (code, "is one of the shards" in err) == (1, True)
    assert Path("0.h5").read_bytes() == before


def test_resuming_and_adding_a_method(folder: Path) -> None:
    assert invoke(*QUICK, "-o", "run.h5")[0] == 0
    code, _, err = invoke(*QUICK, "-o", "run.h5")
    assert code == 1
    assert "run.h5 exists: pass --resume or --overwrite" in err
    code, out, _ = invoke(*EVALUATE, "--methods", "constant", "-o", "run.h5", "--resume", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["complete"]
    assert set(told["methods"]) == {"constant", "gradient", "random"}
    code, _, err = invoke(*QUICK, "-o", "run.h5", "--resume", "--seed", "1")
    assert code == 1
    assert "seed" in err


@pytest.mark.full
def test_a_broken_picture_makes_the_exit_code_one(folder: Path) -> None:
    Path("pictures/0/00.png").write_bytes(b"nothing")
    code, out, _ = invoke(*QUICK, "-o", "run.h5")
    assert code == 1
    assert "1 samples can't be scored" in out
    with h5py.File("run.h5") as file:
        assert is_complete(file)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--methods", "abslrb"), 1, "no method 'abslrb'; near names: abslrp"),
        (("--metrics", "insertoin"), 1, "no metric 'insertoin'"),
        (("--shard", "3/3"), 2, "it is I/N, part I of N counted from 0"),
        (("--shard", "auto"), 1, "nothing says which part --shard auto means"),
        (("--processes", "none"), 2, "it is a number from 1 on, or one of gpus and auto"),
        (("--processes", "2", "--shard", "0/2"), 2, "give one of the two"),
        (("--engine", "ray", "--shard", "0/2"), 2, "--engine all of them: give one of the two"),
        (("--engine", "spark"), 2, "it is ray, or ray://HOST:PORT"),
        (("--baseline", "grey"), 2, "it is a number, or one for each channel"),
        (("--baseline", "0/0"), 1, "the baseline has 2 values"),
        (("--limit", "3"), 1, "takes four different pictures, and 3 of the data set's 13 are taken: give --limit 4\n"),
        (("--limit", "5", "--per-class", "2"), 1, "pass --limit 5 or --per-class 2, not both\n"),
        (("--protocol", "released", "--baseline", "1"), 1, "masks with zero: pass --baseline 0, or leave it out\n"),
        (("--truth", "labels.csv"), 1, "cannot read labels labels.csv: No such file"),
        (("--resume", "--overwrite"), 1, "pass --resume or --overwrite, not both"),
        (("-o", "missing/run.h5"), 1, "cannot write missing/run.h5: there is no folder missing\n"),
        (("--shard", "0/3", "--unit", "4"), 1, "1 unit of work: too few for 3 shards; give all of them --unit 1\n"),
        (("--shard", "0/9"), 1, "2 units of work: too few for 9 shards; they are 4 mosaics, which are not cut\n"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(
    folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = invoke(*QUICK, *arguments)
    assert found == code
    assert message in err
    assert err.count("\n") == 1
    assert not Path("run.h5").exists()


@pytest.mark.full
def test_what_a_method_has_to_say_of_its_maps_is_told(folder: Path) -> None:
    Path("mine.py").write_text(OWN + NORMED)
    arguments = ("--model", "mine:normed", "--methods", "zennit.EpsilonPlus", "--limit", "4")
    code, _, err = invoke(*EVALUATE, *arguments, "-o", "run.h5")
    assert code == 0
    assert err.startswith("relprop: zennit's EpsilonPlus has no rule for ")
    assert "1 GroupNorm" in err
    assert err.count("\n") == 1


@pytest.mark.full
def test_labels_that_are_missing_are_told_with_what_gives_them(folder: Path) -> None:
    for k, file in enumerate(sorted(Path("pictures").rglob("*.png"))):
        file.rename(f"pictures/{k}.png")
    code, _, err = invoke(*QUICK, "--target", "label", "-o", "run.h5")
    assert code == 1
    assert err.startswith("relprop: no picture has a label, which --target label would explain: ")
    assert "--truth CSV" in err
    rows = [f"{file.name},{k % 3}" for k, file in enumerate(Path("pictures").iterdir())]
    Path("labels.csv").write_text("\n".join(["file,class_index", *rows]))
    assert invoke(*QUICK, "--target", "label", "-o", "run.h5", "--truth", "labels.csv")[0] == 0


@pytest.mark.full
def test_the_released_protocol_and_a_virelay_project(folder: Path) -> None:
    released = (*QUICK, "--protocol", "released", "--relevance", "channels")
    assert invoke(*released, "-o", "run.h5")[0] == 0
    with h5py.File("run.h5") as file:
        assert json.loads(file.attrs["config"])["protocol"] == "released"
        assert np.isfinite(file["methods/gradient/gae"][:]).all()
    code, _, err = invoke(*QUICK, "-o", "run.h5", "--resume")
    assert code == 1
    assert "protocol" in err
    code, _, err = invoke("export", "run.h5", "--virelay", "project.yaml")
    assert (code, list(Path().glob("project*"))) == (1, [])
    assert err.startswith("relprop: ")
    code, out, err = invoke("export", "run.h5", "--virelay", "project.yaml", "--pictures", "pictures", "-m", "gradient")
    assert (code, err) == (0, "")
    assert f"ViRelAy project of gradient: {PICTURES} x 3 x 160 x 160 maps" in out
    assert len(list(Path().glob("project*"))) == 4
    for file in sorted(Path("pictures").rglob("*.png")):
        file.rename(f"pictures/{file.name}")
    code, _, err = invoke(*released, "-o", "unlabelled.h5")
    assert code == 1
    assert "--protocol released rates mosaics by" in err


@pytest.mark.full
def test_a_full_disk_is_told_and_leaves_nothing_that_looks_complete(folder: Path) -> None:
    """A limit on the size of files stands for the disk."""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); import signal; "
    limited += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from relprop.cli import app; app()"
    arguments = (*QUICK, "--relevance", "channels", "--unit", "1")
    assert invoke(*arguments, "-o", "whole.h5")[0] == 0
    room = int(0.8 * Path("whole.h5").stat().st_size)
    command = [sys.executable, "-c", limited.format(room), *arguments, "-o", "run.h5"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
    assert found.returncode == 1, found.stderr
    assert found.stderr.startswith("relprop: cannot write run.h5: ")
    assert found.stderr.count("\n") == 1
    if Path("run.h5").exists():  # it may have been too full even to lay the file out
        with h5py.File("run.h5") as file:
            assert not is_complete(file)
    assert invoke(*arguments, "-o", "run.h5", "--resume")[0] == 0
    assert_same(contents(Path("run.h5")), contents(Path("whole.h5")))


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_commits_and_the_exit_code_says_so(folder: Path) -> None:
    for k in range(PICTURES, 60):
        Path("pictures/0", f"{k}.png").write_bytes(Path("pictures/0/00.png").read_bytes())
    command = [sys.executable, "-m", "relprop", *QUICK, "-o", "run.h5", "--unit", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    start = time.monotonic()
    while not Path("run.h5").exists() and time.monotonic() - start < 400:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "relprop: interrupted; what run.h5 holds is whole, --resume goes on\n"
    with h5py.File("run.h5") as file:
        assert not is_complete(file)
        assert 0 < file["samples/state"][:].sum() < 60
    assert invoke(*QUICK, "-o", "run.h5", "--unit", "1", "--resume")[0] == 0


def environment() -> dict[str, str]:
    """Let a process find this checkout, wherever it runs."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}"}
