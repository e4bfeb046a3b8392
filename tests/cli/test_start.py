"""What is refused before PyTorch is imported, and the cache of captured graphs on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result

import rule_registry
from relprop.cli.early import BUILT_IN, PLUGINS
from relprop.tracing.disk import folder
from rule_registry import plugins
from tests.helpers.cli import app
from tests.helpers.cli import run as runner

EARLY = """
import json, sys
from relprop.cli import app
try:
    app(json.loads(sys.argv[1]))
except SystemExit as end:
    print(end.code, [name for name in ("torch", "timm", "matplotlib") if name in sys.modules])
"""

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    pretrained_cfg = {"input_size": (3, 32, 32)}
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

def make():
    torch.manual_seed(0)
    return Net()
"""


def test_the_names_that_are_known_without_torch_are_the_registrys() -> None:
    assert set(BUILT_IN) == set(rule_registry.names())
    assert PLUGINS == plugins.PLUGINS


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "none.jpg"], "no such file or folder: none.jpg"),
        (["explain", "{picture}", "--weights", "none.pth"], "no such file or folder: none.pth"),
        (["explain", "{picture}", "--rules", "abslpr"], "no rule set named 'abslpr'; near names: abslrp"),
        (["explain", "{picture}", "--rules", "epsilonn:epsilon=1"], "no rule set named 'epsilonn'"),
        (["explain", "{picture}", "--target", "top0"], "--target top0: N is from 1 to 20"),
        (["explain", "{picture}", "--class-names", "none.txt"], "cannot read class names none.txt"),
        (["explain", "{picture}", "--class-names", "{picture}"], "cannot read class names"),
        (["explain", "{picture}", "-o", "{picture}"], "it is a file; name a folder"),
        (["explain", "{picture}", "--format", "pdf"], "pdf"),
        (["check", "none.jpg"], "no such file or folder: none.jpg"),
        (["check", "--rules", "abslpr"], "no rule set named 'abslpr'"),
        (["evaluate", "none", "-o", "x.h5"], "no such file or folder: none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_found_before_torch_is_imported(tmp_path: Path, arguments: list[str], words: str) -> None:
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    given = [argument.format(picture=picture) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", EARLY, json.dumps(given)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert words in done.stderr
    code, imported = done.stdout.strip().split(maxsplit=1)
    assert (int(code) > 0, imported) == (True, "[]"), done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def run(*arguments: object) -> Result:
    return runner.invoke(app, [*map(str, arguments)])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder, "_chosen", None)
    monkeypatch.setenv(folder.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.full
def test_the_second_run_needs_no_capture_and_tells_what_was_verified(tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "begun.py").write_text(OWN)
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    options = ["--model", f"{tmp_path}/begun.py:make", "--preprocessing", "resnet18"]
    first = run("explain", picture, *options, "-o", tmp_path / "a", "--verify")
    assert first.exit_code == 0, first.output
    kept = {file.name: file.stat().st_mtime_ns for file in own_cache.iterdir()}
    assert {Path(name).suffix for name in kept} == {".graph", ".verified"}
    again = run("explain", picture, *options, "-o", tmp_path / "b", "--format", "npz")
    assert again.exit_code == 0, again.output
    assert "capture verified" in first.output
    assert "capture verified" in again.output
    assert kept.keys() == {file.name for file in own_cache.iterdir()}
    none = run("explain", picture, *options, "-o", tmp_path / "c", "--no-cache")
    assert none.exit_code == 0, none.output
    assert "capture verified" not in none.output


def test_the_cache_is_shown_and_cleared(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 files" in run("cache").output
    own_cache.mkdir()
    (own_cache / "a.graph").write_bytes(bytes(10))
    (own_cache / "mine.txt").write_bytes(bytes(10))
    assert f"1 files, 0.0 MB, in {own_cache}" in run("cache").output
    assert "1 files removed" in run("cache", "--clear").output
    assert [file.name for file in own_cache.iterdir()] == ["mine.txt"]
    monkeypatch.setenv(folder.VARIABLE, "0")
    assert "the cache is off" in run("cache").output
