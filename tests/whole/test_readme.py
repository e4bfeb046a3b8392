"""The README and those of the folders are executed: a newcomer's first lines must work."""

import re
import shlex
import shutil
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from typer.testing import CliRunner

import relprop.models
import rule_registry
from relprop.cli import app
from relprop.evaluation import METRICS
from relprop.models import PictureError, PictureTransform, load_classifier, sample_pictures
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


def commands(page: Path) -> list[str]:
    return re.findall(r"^\$ relprop (.*)$", "".join(blocks("console", page)), re.MULTILINE)


def needs_pictures(page: Path) -> bool:
    return "sample_pictures" in page.read_text() or bool(commands(page))


SIDE = 112
"""Of the pictures that the pages' model sees here: half of what it takes elsewhere, in a quarter of the time."""


@cache
def load_small(*args, **options):
    """Load a classifier with its real weights for smaller pictures."""
    classifier = load_classifier(*args, **options)
    steps = [Resize(SIDE), CenterCrop(SIDE), ToTensor(), Normalize(classifier.mean, classifier.std)]
    return replace(classifier, transform=PictureTransform(Compose(steps)))


@pytest.fixture
def _one_model(monkeypatch):
    """Let a page share one loaded model, and its copy in 64 bits, so that either is captured only once."""
    in_double, copies = oracle._in_double, {}

    def copied_once(model, inputs):
        if model not in copies:
            copies[model] = in_double(model, inputs)[0]
        return in_double(copies[model], inputs)  # which is in 64 bits, and stays itself

    monkeypatch.setattr(relprop.models, "load_classifier", load_small)
    monkeypatch.setattr(oracle, "_in_double", copied_once)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reader's folder: what the pages call cat.jpg, holiday/ and photos/ is there."""
    monkeypatch.chdir(tmp_path)
    try:
        samples = sample_pictures()[:4]
    except PictureError:
        return tmp_path
    for name in ("holiday", "photos"):
        Path(name).mkdir()
    for name in ("cat.jpg", "holiday/cat.jpg"):
        shutil.copy(samples[0], name)
    for sample in samples:
        shutil.copy(sample, "photos")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT)),
            marks=[pytest.mark.full] * (needs_pictures(page) or page == SPREAD),
        )
        for page in PAGES
    ],
)
@pytest.mark.usefixtures("own_registry", "_one_model")
def test_code_and_commands_run(page, folder, monkeypatch):
    if needs_pictures(page):
        try:
            sample_pictures()
        except PictureError as error:
            pytest.skip(str(error))
    monkeypatch.setattr("relprop.evaluation.metrics.METRICS", dict(METRICS))
    scope: dict[str, object] = {"__name__": "__main__"} if page == SPREAD else {}
    left_out = ""
    for number, block in enumerate(blocks("python", page), 1):
        if "from transformers import" in block and find_spec("transformers") is None:
            left_out = f"block {number} needs relprop[zoo]; the others ran"
            continue
        exec(compile(block, f"{page.name}, block {number}", "exec"), scope)
    for command in commands(page):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, f"relprop {command}: {result.output}"
    if page == README:
        for pattern in ("maps.png", "out/cat*.png", "out/index.jsonl", "out/index.html", "run.h5", "report.html"):
            assert list(folder.glob(pattern)), pattern
    if left_out:
        pytest.skip(left_out)


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 15_000


def test_readme_has_two_commands():
    assert [len(block.splitlines()) for block in blocks("sh")] == [1, 1]


def test_readme_names_every_rule_set():
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (?:\*\*the default\*\*: )?(.*) \|$", README.read_text(), re.MULTILINE))
    assert {name: rows.get(name) for name in rule_registry.names()} == {
        name: rule_registry.get(name).summary for name in rule_registry.names()
    }


def test_tables_of_rules_are_current(tmp_path):
    page = ROOT / "rule_registry" / "README.md"
    copy = Path(shutil.copy(page, tmp_path))
    assert CliRunner().invoke(app, ["rules", "--markdown", str(copy)]).exit_code == 0
    assert copy.read_text() == page.read_text(), "run: relprop rules --markdown rule_registry/README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    named = re.findall(r"`((?:tests|benchmarks|relprop|rule_registry)/[\w/.]*\w)`", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if not ((ROOT / name).exists() or (page.parent / name).exists())]
    assert not missing
