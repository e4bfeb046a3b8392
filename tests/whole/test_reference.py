"""The API reference is made of the docstrings, without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import relprop
import rule_registry
from tests.helpers.paths import ROOT


@pytest.mark.full
def test_every_public_name_is_in_it(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason='the reference needs pip install "relprop[docs]"')
    line = next(line for line in (ROOT / "relprop" / "README.md").read_text().splitlines() if line.startswith("$ pdoc"))
    command = [sys.executable, "-m", *line.removeprefix("$ ").replace("-o site", f"-o {tmp_path}").split()]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    for package in (relprop, rule_registry):
        page = (tmp_path / f"{package.__name__}.html").read_text()
        names = [name for name in package.__all__ if not isinstance(getattr(package, name), ModuleType)]
        assert names
        assert not [name for name in names if f'id="{name}"' not in page]
    assert (tmp_path / "search.js").exists()
