"""The benchmarks run, and write the columns that they promise; what they measure is nobody's test."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
import typer
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

import relprop
import rule_registry
from benchmarks.__main__ import app
from benchmarks.conditions import Conditions, Device, Dtype
from benchmarks.quality.gae import GaeRow
from benchmarks.records.tables import cells, columns
from benchmarks.runs.evaluation import CostRow, EvaluationRow
from benchmarks.runs.growth import GrowthRow
from benchmarks.runs.start import StartRow
from benchmarks.runs.start import markdown as start_markdown
from benchmarks.runs.stream import StreamRow
from benchmarks.runs.throughput import ThroughputRow
from benchmarks.runs.throughput import markdown as throughput_markdown
from benchmarks.speed.choices import CHOICES, ChoiceRow
from benchmarks.speed.choices import markdown as choices_markdown
from benchmarks.speed.compare import SpeedRow
from benchmarks.speed.floor import FloorRow, OperationRow
from benchmarks.speed.scale import ScaleRow
from benchmarks.speed.scale import markdown as scale_markdown
from benchmarks.speed.trials import TrialError
from tests.helpers.paths import ROOT, SHARED

JOBS = ["forward", "gradient", "explain", "explain, contrast=None"]
CPU = Conditions(Device.CPU, Dtype.FLOAT32, 1)


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def read(folder: Path, name: str, kind: Any, conditions: str = CPU.on_machine) -> list[dict[str, str]]:
    with (folder / f"{name}-{conditions}.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == columns(kind)
    assert set(kind.KEYS) <= set(columns(kind))
    return rows


@pytest.mark.full
def test_speed_writes_a_row_for_every_job(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    code, output = run("speed", "--quick", "--results", tmp_path)
    assert code == 0, output
    rows = read(tmp_path, "speed", SpeedRow)
    assert [row["job"] for row in rows] == JOBS
    assert {(row["model"], row["batch"], row["repeats"]) for row in rows} == {("test_resnet", "2", "2")}
    assert rows[1]["over_gradient"] == rows[1]["peak_over_gradient"] == "1"
    assert all(float(row["process_mib"]) > float(row["peak_mib"]) > 0 for row in rows)
    assert float(rows[0]["peak_mib"]) < float(rows[1]["peak_mib"]), "a gradient keeps activations"
    assert torch.get_num_threads() == threads


@pytest.mark.full
def test_other_rule_sets_take_turns_too_and_a_typo_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    options = ("--rules", "epsilon", "--rules", "gamma:gamma=0.1", "--repeats", "1", "--results", tmp_path)
    code, output = run("speed", "--quick", *options)
    assert code == 0, output
    rows = read(tmp_path, "speed", SpeedRow)
    assert [row["job"] for row in rows] == [*JOBS, "explain, epsilon", "explain, gamma:gamma=0.1"]
    assert all(float(row["peak_mib"]) > 0 for row in rows)
    code, output = run("speed", "--quick", "--rules", "epsilom", "--results", tmp_path / "none")
    assert code == 1
    assert output.startswith("benchmarks: rules epsilom: no rule set named 'epsilom'; near names: epsilon")
    assert not list(tmp_path.glob("none/*"))


def test_speed_with_peers_times_what_explains_and_says_what_is_wrong(tmp_path: Path) -> None:
    for package in ("captum", "zennit", "autolrp", "lxt"):
        pytest.importorskip(package, reason=f"{package} is not installed (the extra peers)")
    code, output = run("speed", "--quick", "--peers", "--repeats", "1", "--results", tmp_path)
    assert code == 0, output
    rows = read(tmp_path, "speed-peers", SpeedRow)
    assert [row["job"] for row in rows][4:] == [
        "captum InputXGradient",
        "captum (wrong)",
        "zennit (wrong)",
        "autoLRP",
    ]  # LXT knows transformers
    assert all(float(row["peak_mib"]) > 0 for row in rows)


def test_what_only_a_gpu_can_do_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    for option in ("--tf32", "--cuda-graph"):
        code, output = run("speed", "--quick", option, "--results", tmp_path)
        assert (code, output) == (1, f"benchmarks: {option} is about GPUs: it goes with --device cuda\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_floor_counts_times_and_profiles(tmp_path: Path) -> None:
    code, output = run("floor", "--quick", "--models", "test_resnet", "--repeats", "1", "--results", tmp_path)
    assert code == 0, output
    rows = read(tmp_path, "floor", FloorRow)
    assert [row["job"] for row in rows] == JOBS
    assert [row["over_forward"] for row in rows[:2]] == ["1", "2"]
    assert all(float(row["over_products"]) > 0 for row in rows)
    beside = read(tmp_path, "floor-operations", OperationRow)
    assert len(beside) == 13
    assert beside[-1]["operation"] == "all others"
    assert sum(float(row["share"]) for row in beside) == pytest.approx(1, abs=1e-2)


@pytest.mark.full
def test_choices_compares_each_way_with_the_plain_one(tmp_path: Path) -> None:
    code, output = run("choices", "--quick", "--results", tmp_path)
    assert code == 0, output
    rows = read(tmp_path, "choices", ChoiceRow)
    assert [row["choice"] for row in rows] == list(CHOICES)
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["plain"]) / float(row["seconds"]), rel=2e-3)
    assert len(choices_markdown(rows).splitlines()) == 2 + len(rows)


def test_each_choice_is_named_where_it_was_made() -> None:
    named = [
        name
        for package in (relprop, rule_registry)
        for path in Path(package.__path__[0]).rglob("*.py")
        for name in re.findall(r"benchmarks choices: ([\w ]+)", path.read_text(encoding="utf-8"))
    ]
    assert set(named) == set(CHOICES)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in CHOICES if name != "imports"])
def test_both_ways_of_a_choice_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    chosen, plain = (tree_leaves(job()) for job in CHOICES[name][1]())
    for ours, theirs in zip(chosen, plain, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, torch.Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)  # sums of 4096 products of order 1
        else:
            assert ours == theirs


def test_growth_is_told_as_exponents() -> None:
    def row(axis: str, model: str, batch: int, seconds: float) -> dict[str, str]:
        found = ScaleRow(axis, model, batch, None, seconds, seconds / batch, 2 * batch**0.5, None, None, None)
        return dict(zip(columns(ScaleRow), cells(found), strict=True))

    rows = [row("batch", "net", batch, batch**1.5) for batch in (4, 1, 16)]
    rows += [row("depth", f"net_16_224:depth={depth}", 2, depth**2) for depth in (6, 12)]
    table = [line.split(" | ") for line in scale_markdown(rows).splitlines()[2:]]
    assert [line[0:4] for line in table] == [["| batch", "net", "1", "16"], ["| depth", "net_16_224", "6", "12"]]
    assert table[0][4:] == ["1.50", "1.00", "-", "-", "2.00 to 8.00", "- |"]
    assert table[1][4:6] == ["2.00", "2.00"]
    with pytest.raises(TrialError, match="convnext_tiny does not say how deep it is"):
        scale_markdown([row("depth", "convnext_tiny", 2, 1.0)])


@pytest.mark.full
def test_scale_writes_a_row_for_every_point_and_compares_it_with_an_earlier_file(tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("axis,model,batch,side,peak_mib\nbatch,test_resnet,1,,1e-3\nbatch,test_resnet,3,,7\n")
    code, output = run("scale", "--quick", "--results", tmp_path, "--compare", old)
    assert code == 0, output
    rows = read(tmp_path, "scale", ScaleRow)
    assert len(scale_markdown(rows).splitlines()) == 2 + len({row["axis"] for row in rows})
    assert [(row["axis"], row["model"], row["batch"], row["side"]) for row in rows] == [
        ("batch", "test_resnet", "1", ""),
        ("batch", "test_resnet", "4", ""),
        ("side", "test_resnet", "2", "64"),
        ("depth", "test_vit:depth=2", "2", ""),
    ]
    one, four = (float(row["peak_mib"]) for row in rows[:2])
    assert 3.4 * one <= four <= 4.2 * one  # parts of weights, in the peak of one picture, don't grow with the batch
    lines = [line.split() for line in output.partition("now over old.csv:\n")[2].splitlines()]
    assert lines[1] == ["batch", "test_resnet", "1", f"x{one / 1e-3:.3g}"]
    assert lines[2] == ["batch", "test_resnet", "4", "new"]
    assert lines[5] == ["batch", "test_resnet", "3", "not", "measured", "now"]


def test_a_file_to_compare_with_is_looked_at_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "picture.csv").write_bytes(b"\xff\xd8\xff")
    for name, words in (
        ("none.csv", "there is no file"),
        ("other.csv", "it has no columns (model, job, batch)"),
        ("picture.csv", "can't be compared with: 'utf-8'"),
    ):
        code, output = run("speed", "--quick", "--results", tmp_path, "--compare", tmp_path / name)
        assert code == 1
        assert output.startswith("benchmarks: ")
        assert words in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "picture.csv"]


def test_a_folder_that_takes_no_results_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    code, output = run("speed", "--quick", "--results", tmp_path / "taken")
    assert code == 1
    assert output.startswith("benchmarks: no results can be written to ")


@pytest.mark.full
def test_evaluate_measures_phases_costs_and_memory(tmp_path: Path) -> None:
    few = ("--samples", "4", "--many", "8", "--many", "4", "--methods", "abslrp")
    code, output = run("evaluate", "--quick", *few, "--results", tmp_path)
    assert code == 0, output
    runs = read(tmp_path, "evaluate", EvaluationRow)
    assert [(row["maps"], row["samples"], row["methods"]) for row in runs] == [
        ("none", "4", "abslrp"),
        ("map", "4", "abslrp"),
    ]
    assert float(runs[0]["bytes_per_sample"]) < float(runs[1]["bytes_per_sample"])
    assert all(float(row[phase]) > 0 for row in runs for phase in ("loading", "masking", "explaining", "writing"))
    costs = read(tmp_path, "evaluate-cost", CostRow)
    assert [row["method"] for row in costs] == ["abslrp"]
    for row in costs:
        floor = float(row["explanations"]) + float(row["passes"])
        assert float(row["over_floor"]) == pytest.approx(float(row["seconds"]) / floor, rel=1e-2)
    memory = read(tmp_path, "evaluate-memory", GrowthRow)
    assert [row["samples"] for row in memory] == ["4", "8"]
    assert memory[0]["over_fewest"] == "1"


@pytest.mark.parametrize(("costed", "samples"), [(4, 32), (12, 32), (16, 8)])
def test_the_floor_of_gae_is_found_over_whole_units(costed: int, samples: int, tmp_path: Path) -> None:
    options = ("--costed", str(costed), "--samples", str(samples), "--unit", "2", "--results", tmp_path)
    code, output = run("evaluate", *options)
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert output.startswith(f"benchmarks: --costed {costed}: the floor is found over whole units of 8 pictures")


@pytest.mark.full
def test_stream_measures_inference_and_explaining(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)
        assert cv2.imwrite(str(tmp_path / "pictures" / f"{k}.png"), pixels)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    options = ("--model", "test_resnet", "--weights", tmp_path / "weights.pth", "--fewer", "1", "--batch", "2")
    code, output = run("stream", tmp_path / "pictures", *options, "--results", tmp_path)
    assert code == 0, output
    rows = read(
        tmp_path, "stream", StreamRow, Conditions(Device.CPU, Dtype.FLOAT32, torch.get_num_threads()).on_machine
    )
    assert [row["job"] for row in rows] == ["inference", "explain"]
    assert [row["pictures"] for row in rows] == ["3", "3"]
    assert all(float(row["peak_mib"]) > 100 for row in rows)
    assert run("stream", tmp_path / "pictures", "--fewer", "3")[0] == 1


def test_the_readme_has_a_command_that_is_understood_for_each() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    commands: Any = typer.main.get_command(app)
    lines = re.findall(r"^\$ python -m benchmarks (.*)$", text, re.MULTILINE)
    for line in lines:
        name, *arguments = shlex.split(line)
        commands.commands[name].make_context(name, arguments)
    assert {line.split()[0] for line in lines} == set(commands.commands)


@pytest.mark.full
def test_the_first_picture_costs_less_when_its_graph_is_kept(tmp_path: Path) -> None:
    code, output = run("start", "--quick", "--results", tmp_path)
    assert code == 0, output
    (row,) = read(tmp_path, "start", StartRow, Conditions(Device.CPU, Dtype.FLOAT32, 1).on_machine)
    assert row["model"] == "test_resnet"
    assert all(float(row[name]) > 0 for name in columns(StartRow) if name != "model")
    assert len(start_markdown([row]).splitlines()) == 3


@pytest.mark.full
def test_throughput_scores_in_four_ways(tmp_path: Path) -> None:
    pytest.importorskip("quantus")
    code, output = run("throughput", "--quick", "--results", tmp_path)
    assert code == 0, output
    rows = read(tmp_path, "throughput", ThroughputRow)
    assert [row["scores"] for row in rows] == ["GAE", "GAE, channels last", "GAE, protocol released", "Quantus"]
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert [bool(row["difference"]) for row in rows] == [False, True, False, False]
    assert 0 <= float(rows[1]["difference"]) < 0.1
    assert len(throughput_markdown(rows).splitlines()) == 6


@pytest.mark.full
def test_ablation_and_gae_have_a_quick_form(tmp_path: Path) -> None:
    results = ("--quick", "--results", tmp_path)
    if not (SHARED / "assets").is_dir():
        pytest.skip("the shared pictures and weights for ablation and gae are not here")
    code, output = run("ablation", *results, "--shared", SHARED)
    assert code == 0, output
    code, output = run("gae", *results, "--shared", SHARED, "--files", tmp_path / "runs")
    assert code == 0, output
    rows = read(tmp_path, "gae-4pictures", GaeRow, str(CPU))
    assert "abslrp" in [row["method"] for row in rows]
    assert not any("Integrated" in row["method"] for row in rows)
