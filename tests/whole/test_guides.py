"""The pages of relprop/guides: every block runs; where a library is not installed its blocks are left out, and that is
said."""

import ast
import re
from importlib.util import find_spec

import matplotlib
import pytest

from tests.helpers.paths import ROOT
from tests.whole.test_readme import blocks

PAGES = sorted((ROOT / "relprop" / "guides").glob("*.md"))


def missing_packages(block: str) -> list[str]:
    """Name what a block imports and is not installed."""
    imported = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
    packages = {name.partition(".")[0] for name in imported}
    return sorted(package for package in packages if find_spec(package) is None)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    found = blocks("python", page)
    assert found, "a page without a line to run"
    scope: dict[str, object] = {"__name__": "__main__"}
    left_out = []
    for number, block in enumerate(found, 1):
        if missing := missing_packages(block):
            left_out.append(f"block {number} needs {', '.join(missing)}")
            continue
        exec(compile(block, f"{page.name}, block {number}", "exec"), scope)
    if left_out:
        pytest.skip(f"{'; '.join(left_out)}; the others ran")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_to_files(page):
    words = re.sub(r"^```.*?^```$|`[^`]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", words)
    named = re.findall(r"`((?:tests|benchmarks|relprop|rule_registry)/[\w/.]*\w)`", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]
    assert not [name for name in named if not (ROOT / name).exists()]


def test_a_missing_package_is_named():
    assert missing_packages("import torch\nfrom no_such_library.part import x") == ["no_such_library"]
