"""The README is executed: a newcomer's first lines must work."""

import re
import shlex
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

import relprop.models
import rule_registry
from relprop.cli import app
from relprop.cli.lists import BEGIN
from relprop.models import PictureError, load_classifier, sample_pictures
from relprop.verification import oracle
from tests.helpers.paths import ROOT

README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("own_registry")
def test_readme_code_runs(tmp_path, monkeypatch):
    try:
        sample_pictures()
    except PictureError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    left_out = ""
    for number, block in enumerate(blocks("python"), 1):
        if "from transformers import" in block and find_spec("transformers") is None:
            left_out = f"block {number} needs relprop[zoo]; the others ran"
            continue
        exec(compile(block, f"README.md, block {number}", "exec"), scope)
    assert (tmp_path / "maps.png").stat().st_size > 10_000
    if left_out:
        pytest.skip(left_out)


@pytest.fixture
def _one_model(monkeypatch):
    """Let all commands share one loaded model, and its copy in 64 bits, so that either is captured only once."""
    in_double, copies = oracle._in_double, {}

    def copied_once(model, inputs):
        if model not in copies:
            copies[model] = in_double(model, inputs)[0]
        return in_double(copies[model], inputs)  # which is in 64 bits, and stays itself

    monkeypatch.setattr(relprop.models, "load_classifier", cache(load_classifier))
    monkeypatch.setattr(oracle, "_in_double", copied_once)


@pytest.mark.usefixtures("_one_model")
def test_readme_commands_run(tmp_path, monkeypatch):
    try:
        samples = sample_pictures()[:4]
    except PictureError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    for folder in ("holiday", "photos"):
        Path(folder).mkdir()
    for name in ("cat.jpg", "holiday/cat.jpg"):
        shutil.copy(samples[0], name)
    for sample in samples:
        shutil.copy(sample, "photos")
    commands = re.findall(r"^\$ relprop (.*)$", "".join(blocks("console")), re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, f"relprop {command}: {result.output}"
    assert {"cat.png", "cat.npz", "cat.layers.png", "index.jsonl"} <= {file.name for file in Path("out").iterdir()}
    assert len(list(Path("plots").glob("*.png"))) >= 4
    assert len(Path("scores.csv").read_text().splitlines()) == 1 + 4 * 4


def test_readme_has_two_commands():
    assert [len(block.splitlines()) for block in blocks("sh")] == [1, 1]


def test_readme_names_every_rule_set():
    text = README.read_text().partition(BEGIN)[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (?:\*\*the default\*\*: )?(.*) \|$", text, re.MULTILINE))
    assert {name: rows.get(name) for name in rule_registry.names()} == {
        name: rule_registry.get(name).summary for name in rule_registry.names()
    }


def test_readme_tables_of_rules_are_current(tmp_path):
    copy = shutil.copy(README, tmp_path)
    assert CliRunner().invoke(app, ["rules", "--markdown", copy]).exit_code == 0
    assert Path(copy).read_text() == README.read_text(), "run: relprop rules --markdown README.md"


def test_readme_links_no_missing_file():
    root = README.parent
    assert all((root / path).exists() for path in re.findall(r"[`(](benchmarks/[\w/.]*)[`)]", README.read_text()))
