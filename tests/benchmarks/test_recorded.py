"""The README's tables say what is recorded, and how they are made from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.coverage.measure import CoverageRow
from benchmarks.coverage.sweep import markdown
from benchmarks.quality.gae import GaeRow
from benchmarks.readme import RECORDED, TABLES, markers, tables
from benchmarks.records.tables import cells, columns, write
from benchmarks.speed.compare import SpeedRow
from tests.helpers.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def between(text: str, command: str) -> str:
    begin, end = markers(command)
    assert (text.count(begin), text.count(end)) == (1, 1)
    return text.partition(begin)[2].partition(end)[0].strip("\n")


MEASUREMENTS = ROOT / "benchmarks" / "README.md"
PAGES = [ROOT / "README.md", MEASUREMENTS]


@pytest.mark.full
@pytest.mark.parametrize("name", TABLES)
def test_a_readme_tells_what_is_recorded(name: str) -> None:
    recorded = tables(name, RESULTS) if list(RESULTS.glob(f"{RECORDED.get(name, name)}-*.csv")) else ""
    told = [page for page in PAGES if markers(name)[0] in page.read_text()]
    assert told, name
    for page in told:
        found = between(page.read_text(), name)
        command = name.partition("-")[0]
        assert found == recorded, f"run: python -m benchmarks {command} --markdown {page.relative_to(ROOT)}"


def put(command: str, page: Path, results: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [command, "--markdown", str(page), "--results", str(results)])
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["gae", "coverage"])
def test_tables_are_put_between_their_lines_and_nothing_else_changes(command: str, tmp_path: Path) -> None:
    page = Path(shutil.copy(MEASUREMENTS, tmp_path))
    before = page.read_text()
    begin, end = markers(command)
    page.write_text(before.replace(between(before, command), "of long ago"))
    assert put(command, page, RESULTS) == (0, "")
    assert page.read_text() == before
    page.write_text(f"{end}\n{begin}\n")
    code, output = put(command, page, RESULTS)
    assert (code, page.read_text()) == (1, f"{end}\n{begin}\n")
    assert output.startswith(f"benchmarks: --markdown {page}: put the lines {begin} and {end} where")
    code, output = put(command, page, tmp_path / "elsewhere")
    assert (code, output.splitlines()) == (
        1,
        [f"benchmarks: {tmp_path}/elsewhere has no {command}-*.csv: run python -m benchmarks {command} first"],
    )


def as_text(row: CoverageRow) -> Mapping[str, str]:
    return dict(zip(columns(CoverageRow), cells(row), strict=True))


def test_coverage_counts_models_and_what_peers_were_asked() -> None:
    good = {"captured": True, "oracle_error": 1e-9, "finite": True, "conservation_error": 1e-6}
    rows = [
        CoverageRow("timm", "a", "a", **good, captum="ok 1e-3", zennit="ok", autolrp="wrong: off", lxt="error: none"),
        CoverageRow("timm", "b", "b", **good, captum="error: no rule", zennit="wrong: ok once", autolrp="ok", lxt="ok"),
        CoverageRow("timm", "c", "c", **{**good, "oracle_error": 1e-7}),
        CoverageRow("onnx", "d", "d", **{**good, "conservation_error": 1e-3}, zennit="ok"),
        CoverageRow("onnx", "e", "e", error="given up"),
    ]
    assert markdown([as_text(row) for row in rows]).splitlines() == [
        "| source | models | captured | agree with autograd to 1e-08 | conserve to 0.0001 "
        "| captum | zennit | autoLRP | LXT |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| timm | 3 | 3 | 2 | 3 | 1 of 2 | 1 of 2 | 1 of 2 | 1 of 2 |",
        "| onnx | 2 | 1 | 1 | 0 |  | 1 of 1 |  |  |",
        "| all | 5 | 4 | 3 | 3 | 1 of 2 | 2 of 3 | 1 of 2 | 1 of 2 |",
    ]
    assert "| all |" not in markdown([as_text(rows[0])])


def scored(model: str, method: str, gae: float, low: float, high: float, failed: int = 0) -> GaeRow:
    both = (0.5, 0.25, 0.75)
    return GaeRow(model, method, 8 - failed, failed, gae, low, high, *both, *both, 0.5, 0.5, 1.0)


def test_files_of_gae_are_told_by_their_number_of_pictures(tmp_path: Path) -> None:
    nan = float("nan")
    write([scored("vit", "a", 0.1, 0, 0.2)], GaeRow, tmp_path / "gae-400pictures-cpu.csv")
    rows = [
        scored("vit", "a", 0.1234, 0.1, 0.15),
        scored("vit", "b", 0, nan, nan, failed=2),
        scored("resnet", "b", nan, nan, nan, failed=8),
    ]
    write(rows, GaeRow, tmp_path / "gae-64pictures-cpu.csv")
    first, second = tables("gae", tmp_path).split("From `gae-64pictures-cpu.csv`.")
    assert first.splitlines() == [
        "Means over 8 pictures, with bootstrapped 95 % intervals:",
        "",
        "| model | method | local consistency | contrastiveness | GAE |",
        "| --- | --- | --- | --- | --- |",
        "| vit | `a` | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | 0.123 [0.100, 0.150] |",
        "|  | `b` (failed on 2) | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | 0.000 |",
        "| resnet | `b` (failed on 8) | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | - |",
        "",
    ]
    assert second.endswith("From `gae-400pictures-cpu.csv`.")


def timed(model: str, job: str, ratio: float, memory: float | None) -> SpeedRow:
    return SpeedRow(model, job, 8, 9, 0.5 * ratio, ratio, ratio, ratio, 2 * ratio, ratio, 700, 300, memory)


def test_speed_is_told_in_units_of_the_gradient(tmp_path: Path) -> None:
    jobs = {"forward": (0.4, 0.1), "gradient": (1.0, 1.0), "explain": (2.345, 0.876), "zennit (wrong)": (3.0, 1.5)}
    rows = [timed("vgg", job, *ratios) for job, ratios in jobs.items()]
    rows += [timed("vit", "gradient", 1.0, None), timed("vit", "explain", 3.0, None), timed("vit", "zennit", 4.0, None)]
    write(rows, SpeedRow, tmp_path / "speed-cpu.csv")
    assert tables("speed", tmp_path).splitlines()[:4] == [
        "| model, batch | gradient, s | explain | zennit |",
        "| --- | ---: | ---: | ---: |",
        "| vgg, 8 | 0.50 | 2.35 / 0.88 | 3.00 / 1.50 (wrong) |",
        "| vit, 8 | 0.50 | 3.00 | 4.00 |",
    ]
