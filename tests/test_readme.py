"""The README is executed: a newcomer's first lines must work."""

import re
from pathlib import Path

import pytest

from relprop.models import PictureError, sample_pictures
from rule_registry import registry

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_readme_code_runs(tmp_path, monkeypatch):
    try:
        sample_pictures()
    except PictureError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    definition = registry._definitions["abslrp"]
    monkeypatch.setattr(definition, "table", dict(definition.table))
    scope: dict[str, object] = {}
    for number, block in enumerate(blocks("python"), 1):
        exec(compile(block, f"README.md, block {number}", "exec"), scope)
    assert (tmp_path / "maps.png").stat().st_size > 10_000
    registry._get.cache_clear()


def test_readme_has_two_commands():
    assert [len(block.splitlines()) for block in blocks("sh")] == [1, 1]


def test_readme_names_every_rule_set():
    text = README.read_text()
    assert all(f"| `{name}` |" in text for name in ("abslrp", "abslrp-released", "gradient"))


def test_readme_links_no_missing_file():
    root = README.parent
    assert all((root / path).exists() for path in re.findall(r"`(benchmarks/[\w/]*)`", README.read_text()))
