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
from benchmarks.coco import Coco, DataError
from benchmarks.localisation import LocalisationRow, share_inside
from benchmarks.speed import SpeedRow
from benchmarks.tables import columns

SHARED = Path(__file__).parents[2] / "shared"


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


@pytest.mark.skipif(not (SHARED / "assets").is_dir(), reason="the shared pictures and weights are not here")
def test_localisation_measures_every_method_and_draws(tmp_path: Path) -> None:
    code, output = run(
        "localisation", "--models", "mobilenet_v2", "--limit", "2", "--threads", "1", "--shared", SHARED,
        "--results", tmp_path, "--maps", tmp_path / "maps",
    )  # fmt: skip
    assert code == 0, output
    rows = read(tmp_path, "localisation")
    assert list(rows[0]) == columns(LocalisationRow)
    methods = ["abslrp", "abslrp, contrast=None", "abslrp-released", "input*gradient"]
    assert [row["method"] for row in rows] == methods
    assert {row["pictures"] for row in rows} == {"2"}
    assert all(0 <= float(row["share_mean"]) <= 1 and 0 < float(row["chance"]) < 1 for row in rows)
    assert len(list((tmp_path / "maps").glob("mobilenet_v2-*.png"))) == 2


def test_missing_pictures_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pass --shared DIR"):
        Coco.open(tmp_path)
    code, output = run("localisation", "--shared", tmp_path)
    assert code == 1
    assert output.startswith("benchmarks: no ")


def test_share_inside_counts_positive_relevance_of_summed_channels() -> None:
    relevance = torch.tensor([[[[3.0, 1.0]], [[-1.0, -2.0]], [[1.0, 2.0]]]])  # summed: 3, 1
    mask = torch.tensor([[[True, False]]])
    assert share_inside(relevance, mask).tolist() == [0.75]
    assert share_inside(-relevance, mask).isnan().all()


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
