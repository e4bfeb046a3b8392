"""Examples in docstrings run, and names in docstrings exist."""

from __future__ import annotations

import ast
import doctest
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

NAME = re.compile(r"(?<!`)`~?((?:relprop|rule_registry)(?:\.\w+)+)(?:\([^`]*\))?`")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def docstrings(file: Path) -> Iterator[str]:
    """All strings that stand alone: docstrings, and the descriptions below constants."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def examples(file: Path) -> int:
    return sum(len(doctest.DocTestParser().get_examples(text)) for text in docstrings(file))


FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in ("relprop", "rule_registry", "benchmarks")}
WITH_EXAMPLES = [file for package in ("relprop", "rule_registry") for file in FILES[package] if examples(file)]
WITH_NAMES = {
    file: names
    for files in FILES.values()
    for file in files
    if (names := sorted({name for text in docstrings(file) for name in NAME.findall(text)}))
}


@pytest.mark.sweep(every=10)
@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=module_name)
def test_the_examples_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is counted too, so that an example that doctest does not find is no success."""
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(module_name(file)))
    assert found.attempted == examples(file)
    assert not found.failed


@pytest.mark.parametrize("file", WITH_NAMES, ids=module_name)
def test_the_names_exist(file: Path) -> None:
    stale = []
    for name in WITH_NAMES[file]:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            stale.append(f"{name}: {error}")
    assert not stale, f"{module_name(file)} names what does not exist: {stale}"
