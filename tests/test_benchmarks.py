"""The benchmarks run, and write the columns that they promise; what they measure is nobody's test."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.speed import SpeedRow
from benchmarks.tables import columns


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def read(folder: Path, name: str) -> list[dict[str, str]]:
    (path,) = folder.glob("*.csv")
    version = torch.__version__.partition("+")[0]
    assert path.name == f"{name}-cpu-float32-1threads-torch{version}.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_speed_writes_a_row_for_every_job(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    code, output = run(
        "speed", "--models", "test_resnet", "--batch", "2", "--repeats", "1", "--threads", "1", "--results", tmp_path
    )
    assert code == 0, output
    rows = read(tmp_path, "speed")
    assert list(rows[0]) == columns(SpeedRow)
    assert [row["job"] for row in rows] == ["forward", "gradient", "explain", "explain, contrast=None"]
    assert rows[1]["over_gradient"] == "1"
    assert torch.get_num_threads() == threads


def test_speed_with_peers_times_what_explains_and_says_what_is_wrong(tmp_path: Path) -> None:
    for package in ("captum", "zennit", "autolrp", "lxt"):
        pytest.importorskip(package, reason=f"{package} is not installed (the extra peers)")
    code, output = run(
        "speed", "--models", "test_resnet", "--batch", "2", "--repeats", "1", "--threads", "1", "--peers",
        "--results", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    jobs = [row["job"] for row in read(tmp_path, "speed")]
    assert jobs[4:] == [
        "captum InputXGradient",
        "captum (wrong)",
        "zennit (wrong)",
        "autoLRP",
    ]  # LXT knows transformers


def test_stream_measures_inference_and_explaining(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)
        assert cv2.imwrite(str(tmp_path / "pictures" / f"{k}.png"), pixels)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    options = ("--model", "test_resnet", "--weights", tmp_path / "weights.pth", "--fewer", "1", "--batch", "2")
    code, output = run("stream", tmp_path / "pictures", *options, "--results", tmp_path)
    assert code == 0, output
    (path,) = tmp_path.glob("stream-*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == ["inference", "explain"]
    assert [row["pictures"] for row in rows] == ["3", "3"]
    assert all(float(row["peak_mib"]) > 100 for row in rows)
    assert run("stream", tmp_path / "pictures", "--fewer", "3")[0] == 1
