"""Rules of other packages, really installed: found by their entry point, named when they are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "their-rules"
version = "1.0"

[project.entry-points."rule_registry.rules"]
theirs = "their_rules"

[tool.setuptools]
py-modules = ["their_rules"]
"""
RULES = """
import torch
import rule_registry

aten = torch.ops.aten
base = rule_registry.get("abslrp", delta=0.5)  # a plug-in may use what there is while it is loaded
rule_registry.define("theirs", "rules from elsewhere", base="abslrp", parameters={"factor": 2.0},
                     default=rule_registry.positive_contribution, contrast=None)


@rule_registry.register("theirs", aten.relu.default)
def scaled(call, relevance, *, factor):
    return factor * relevance
"""
USE = """
import torch
import relprop
import rule_registry

assert "theirs" in rule_registry.names()
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).eval()
x = torch.randn(3, 6)
base = relprop.explain(model, x, contrast=None).relevance
for factor in (2.0, 3.0):
    found = relprop.explain(model, x, rules=rule_registry.get("theirs", factor=factor)).relevance
    torch.testing.assert_close(found, factor * base)
# A rule set's own default has the rule set's parameters.
rules = rule_registry.get("theirs", delta=0.25)
assert rules.default.describe() == "positive_contribution(delta=0.25, signed=True)", rules.default.describe()
print("explained with", rules.summary)
"""


@pytest.fixture
def plug_in(tmp_path: Path) -> Path:
    """Install the package and return where it lies."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "their_rules.py").write_text(RULES)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(site.glob("their_rules-1.0.dist-info/entry_points.txt"))
    return site


def run(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=site, env=environment, check=False
    )


@pytest.mark.full
def test_an_installed_package_adds_a_rule_set(plug_in: Path) -> None:
    done = run(plug_in, "-c", USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "explained with rules from elsewhere\n"
    listed = run(plug_in, "-m", "relprop", "rules")
    assert "theirs" in listed.stdout, listed.stderr


@pytest.mark.full
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (RULES + "\n1 / 0", "ZeroDivisionError: division by zero"),
    ],
    ids=["import", "half-registered"],
)
def test_a_broken_package_is_one_error_that_names_it_every_time(plug_in: Path, code: str, reason: str) -> None:
    (plug_in / "their_rules.py").write_text(code)
    use = """
import rule_registry
messages = []
for look in (rule_registry.names, lambda: rule_registry.get("abslrp"), rule_registry.names):
    try:
        look()
    except ImportError as error:
        messages.append(str(error))
assert len(messages) == 3 and len(set(messages)) == 1, messages
print(messages[0])
rule_registry.get("abslrp")
"""
    done = run(plug_in, "-c", use)
    assert done.returncode == 1
    expected = "the rules that their-rules registers as 'theirs' (their_rules) can't be loaded: "
    assert done.stdout == f"{expected}{reason}; repair their-rules, or uninstall it\n"
    assert done.stderr.strip().splitlines()[-1] == f"ImportError: {done.stdout.strip()}"
