"""The commands `samples` and `workers`: what they write, and the arithmetic of the simulation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.conditions import Conditions, Device, Dtype
from benchmarks.records.tables import columns
from benchmarks.runs.samples import SamplesRow
from benchmarks.runs.samples import markdown as samples_markdown
from benchmarks.runs.spread import WorkersRow, makespan, plan_shards
from benchmarks.runs.spread import markdown as workers_markdown
from relprop.engines.shards import ShardFolder

CPU = Conditions(Device.CPU, Dtype.FLOAT32, 1)


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def read(folder: Path, name: str, kind: Any) -> list[dict[str, str]]:
    with (folder / f"{name}-{CPU.on_machine}.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == columns(kind)
    return rows


def test_samples_measures_writing_and_joining_and_keeps_earlier_rows(tmp_path: Path) -> None:
    code, output = run("samples", "--quick", "--case", "8", "--case", "66:3", "--results", tmp_path)
    assert code == 0, output
    code, output = run("samples", "--quick", "--case", "8", "--results", tmp_path)
    assert code == 0, output
    rows = read(tmp_path, "samples", SamplesRow)
    assert [(row["samples"], row["shards"]) for row in rows] == [("66", "3"), ("8", "1")]
    for row in rows:
        assert int(row["bytes"]) > 3000 * int(row["samples"])
        assert all(float(row[name]) > 0 for name in columns(SamplesRow))
        ratio = float(row["merge_seconds"]) / float(row["copy_seconds"])
        assert float(row["over_copy"]) == pytest.approx(ratio, rel=2e-3)
    lines = samples_markdown(rows).splitlines()
    assert [line.split("|")[1:3] for line in lines[2:]] == [[" 8 ", " 1 "], [" 66 ", " 3 "]]


@pytest.mark.parametrize("case", ["0", "3:4", "ten", "8:0", "8:x"])
def test_cases_that_can_not_be_are_told_before_anything_is_measured(tmp_path: Path, case: str) -> None:
    code, output = run("samples", "--case", case, "--results", tmp_path)
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert output.startswith("benchmarks: give SAMPLES:SHARDS")


def test_workers_take_the_next_shard_as_they_are_free() -> None:
    assert makespan([], 3) == 0
    assert makespan([2, 2, 2], 1) == 6
    assert makespan([4, 1, 1, 1, 1], 2) == 4
    assert makespan([1, 1, 1, 1, 4], 2) == 6, "a long one that comes last holds all others"
    assert makespan([5], 512) == 5


@pytest.mark.parametrize(("samples", "workers"), [(4, 8), (96, 1), (96, 2), (50000, 512), (1000, 64)])
def test_shards_are_cut_as_the_engines_cut_them(tmp_path: Path, samples: int, workers: int) -> None:
    sizes = plan_shards(samples, workers)
    assert len(sizes) == ShardFolder(tmp_path / "run.h5").plan(samples, 1, workers)
    assert 0 <= sum(sizes) - samples < 4
    assert max(sizes) - min(sizes) in (0, 4)


@pytest.mark.full
def test_workers_measures_one_and_simulates_more(tmp_path: Path) -> None:
    code, output = run("workers", "--quick", "--results", tmp_path)
    assert code == 0, output
    rows = read(tmp_path, "workers", WorkersRow)
    assert [(row["samples"], row["workers"], row["kind"]) for row in rows] == [
        ("8", "1", "measured"),
        ("8", "1", "simulated"),
        *(("4000", str(count), "simulated") for count in (1, 2, 8, 64, 512)),
    ]
    assert all(0 < float(row["efficiency"]) <= 1.001 for row in rows)
    assert len(workers_markdown(rows).splitlines()) == 2 + len(rows)
