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
from relprop.evaluation import METRICS
from relprop.models import PictureError, load_classifier, sample_pictures
from relprop.verification import oracle
from tests.helpers.paths import ROOT

README = ROOT / "README.md"
PAGES = sorted(
    path for path in ROOT.glob("**/README.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
"""The README, and those of the folders."""
SPREAD = ROOT / "relprop/engines/README.md"
"""Starts worker processes, which takes seconds; its code is that of scripts."""


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.full] * (page in (README, SPREAD)))
        for page in PAGES
    ],
)
@pytest.mark.usefixtures("own_registry")
def test_code_runs(page, tmp_path, monkeypatch):
    if page == README:
        try:
            sample_pictures()
        except PictureError as error:
            pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relprop.evaluation.metrics.METRICS", dict(METRICS))
    scope: dict[str, object] = {"__name__": "__main__"} if page == SPREAD else {}
    left_out = ""
    for number, block in enumerate(blocks("python", page), 1):
        if "from transformers import" in block and find_spec("transformers") is None:
            left_out = f"block {number} needs relprop[zoo]; the others ran"
            continue
        exec(compile(block, f"{page.name}, block {number}", "exec"), scope)
    if page == README:
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


@pytest.mark.full
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
    for pattern in ("cat.png", "cat*.npz", "cat*.layers.png", "index.jsonl"):  # later runs add to the folder
        assert list(Path("out").glob(pattern)), pattern
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    named = re.findall(r"`((?:tests|benchmarks|relprop|rule_registry)/[\w/.]*\w)`", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if not ((ROOT / name).exists() or (page.parent / name).exists())]
    assert not missing
