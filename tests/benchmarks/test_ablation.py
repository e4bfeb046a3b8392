"""The ablation: what it compares, that it goes on where it ended, that every row tells what was refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import relprop
import rule_registry
from benchmarks.__main__ import app
from benchmarks.quality import ablation, variants
from benchmarks.quality.ablation import AblationRow, ablate, order_rows, read_values, spell
from benchmarks.quality.classifiers import CLASSIFIERS
from benchmarks.quality.coco import Coco
from benchmarks.quality.measures import redraw
from benchmarks.quality.recognised import Half, Pictures, Recognised, labelled_pictures
from benchmarks.quality.variants import Variant, VariantError, choose, find_variant
from benchmarks.records.ledger import Ledger
from benchmarks.records.tables import columns
from relprop.metrics import energy_inside
from tests.helpers.paths import ROOT

SHARED = ROOT.parent / "shared"
SETTING = CLASSIFIERS["mobilenet_v2"]
needs_assets = pytest.mark.skipif(
    not (SHARED / "assets").is_dir(), reason="the shared pictures and weights are not here"
)


class Small(nn.Module):
    """One of every operation that a choice is about."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2))
        self.block = Block()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(4), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + (q @ k.transpose(-1, -2)).softmax(-1) @ v


@pytest.fixture
def small() -> Recognised:
    torch.manual_seed(0)
    model = Small().eval().requires_grad_(False)
    x, masks = torch.randn(7, 3, 48, 48).clamp(-3, 3), torch.zeros(3, 48, 48, dtype=torch.bool)
    masks[:, :24, :12] = True
    objects = Pictures(x[:3], torch.tensor([0, 1, 2]), (4, 7, 8), masks)
    return Recognised("small", model, SETTING, objects, Pictures(x[3:], torch.tensor([3, 4, 0, 1]), (0, 1, 2, 3)))


# What is compared


def test_every_rule_set_is_compared_with_every_contrast() -> None:
    listed = variants.variants()
    assert len({variant.name for variant in listed}) == len(listed)
    sets = {(variant.rules, variant.contrast) for variant in listed if variant.kind == "rule set"}
    assert sets == {(name, contrast) for name in rule_registry.names() for contrast in ("none", "rest", "log-odds")}
    assert {"grad-cam.GradCAM", "grad-cam.HiResCAM", "attention-rollout", "random", "constant", "centre"} <= {
        variant.name for variant in listed
    }
    assert {f"abslrp:delta={delta} rest" for delta in ("0", "0.001", "0.03", "0.1")} <= {v.name for v in listed}
    assert find_variant(variants.DEFAULT) in listed


def test_a_variant_is_found_by_its_name() -> None:
    assert find_variant("epsilon-plus rest").kind == "rule set"
    assert find_variant("abslrp, softmax: blocks rest").changes
    assert find_variant("random").kind == "control"
    own = find_variant("gamma:gamma=0.5 log-odds")
    assert (own.kind, own.rules, own.contrast) == ("parameter", "gamma:gamma=0.5", "log-odds")
    assert own.rule_set(SETTING).parameters["gamma"] == 0.5
    for name in ("epsilon-plus", "nothing rest", "epsilon-plus others"):
        with pytest.raises(VariantError, match="there is no variant"):
            find_variant(name)


def test_the_default_comes_first_and_finalists_are_few() -> None:
    assert [v.name for v in choose("c[eo]*", [], "abslrp rest")] == ["abslrp rest", "constant", "centre"]
    names = [f"epsilon:epsilon={number} none" for number in range(1, 8)]
    assert [v.name for v in choose("*", [names[1], "random", "random", "abslrp rest"], "abslrp rest")] == [
        "abslrp rest", names[1], "random",
    ]  # fmt: skip
    assert len(choose("*", names, "abslrp rest")) == 8
    with pytest.raises(VariantError, match="more than 8"):
        choose("*", [*names, "random"], "abslrp rest")


def test_bounds_are_what_black_and_white_become() -> None:
    setting = CLASSIFIERS["vit_tiny_patch16_224"]
    rules = find_variant("z-box none").rule_set(setting)
    assert (rules.parameters["low"], rules.parameters["high"]) == ((-1.0,) * 3, (1.0,) * 3)


def test_passes_are_those_through_the_network() -> None:
    passes = {
        "abslrp none": 1,
        "abslrp rest": 2,
        "epsilon log-odds": 1,
        "abslrp-paper:seed=signed rest": 1,
        "random": 0,
    }
    assert {name: find_variant(name).count_passes(SETTING) for name in passes} == passes
    assert find_variant("captum.IntegratedGradients:n_steps=16").count_passes(SETTING) == 16


@pytest.mark.full
def test_every_choice_changes_the_map(small: Recognised) -> None:
    sites = list(relprop.Explainer(small.model).plan(small.objects.x).sites.values())
    default = find_variant("abslrp rest").on(small.model, SETTING)(small.objects)
    choices = [variant for variant in variants.variants() if variant.kind == "choice" and variant.rules == "abslrp"]
    assert len(choices) == len(variants.CHOICES)
    for variant in choices:
        assert variant.concerns(sites, SETTING), variant.name
        assert not torch.allclose(variant.on(small.model, SETTING)(small.objects), default, rtol=1e-3, atol=0)


def test_a_choice_about_nothing_in_the_model_is_known() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    sites = list(relprop.Explainer(plain).plan(torch.randn(2, 3, 8, 8)).sites.values())
    listed = variants.variants()
    about = {variant.name for variant in listed if variant.concerns(sites, SETTING)}
    assert about.isdisjoint(variant.name for variant in listed if variant.kind == "choice")
    assert about >= {"abslrp:delta=0 rest", "epsilon none", "random", "grad-cam.GradCAM"}


@pytest.mark.full
def test_maps_do_not_depend_on_batches(small: Recognised, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = relprop.explain(small.model, small.objects.x, target=small.objects.target, rules="epsilon", contrast=None)
    for batch in (4, 2):
        monkeypatch.setattr(variants, "BATCH", batch)
        found = find_variant("epsilon none").on(small.model, SETTING)(small.objects)
        assert torch.allclose(found, direct.relevance, atol=1e-6)


# Halves


@needs_assets
def test_halves_have_no_picture_in_common_and_leave_none_out() -> None:
    both = [index for index, *_ in labelled_pictures(SHARED)]
    parts = [[index for index, *_ in labelled_pictures(SHARED, half)] for half in Half]
    assert sorted(parts[0] + parts[1]) == sorted(both)
    assert [len(part) for part in parts] == [len(both) // 2] * 2
    assert parts[0][:3] == both[0:6:2]
    assert len(Coco.open(SHARED).samples) > 50


# Rows


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.full
def test_rows_are_added_once_and_what_is_refused_says_why(
    small: Recognised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "recognise", lambda *arguments: small)
    ledger = Ledger(tmp_path / "rows.csv", AblationRow)
    constant, none = find_variant("constant"), find_variant("gradient none")
    ablate("small", SHARED, ledger, [constant, none], Half.CHOOSE, redrawn=0)
    rows = read(ledger.path)
    assert list(rows[0]) == columns(AblationRow)
    assert [row["variant"] for row in rows] == ["constant", "gradient none"]
    assert [row["passes"] for row in rows] == ["0", "1"]
    assert read_values(rows[0], "inside") == pytest.approx([0.125] * 3)
    assert read_values(rows[0], "quadrant") == pytest.approx([0.25] * 4)
    assert read_values(rows[0], "gain") == pytest.approx([0] * 4)
    relevance = relprop.explain(small.model, small.objects.x, target=small.objects.target, rules="gradient").relevance
    assert small.objects.masks is not None
    inside = energy_inside(relevance, small.objects.masks).value
    assert read_values(rows[1], "inside") == pytest.approx(inside.numpy(), rel=1e-3)
    assert rows[1]["redrawn_all"] == ""

    refused = Variant("parameter", "gamma:nothing=1 rest", "gamma:nothing=1", "rest")
    absent = Variant(
        "choice", "abslrp, digamma", "abslrp", "rest", {torch.ops.aten.digamma.default: rule_registry.passes}
    )
    rollout = find_variant("attention-rollout")
    ablate("small", SHARED, ledger, [constant, refused, absent, rollout], Half.CHOOSE, redrawn=0)
    added = read(ledger.path)
    assert added[:2] == rows
    assert [row["variant"] for row in added[2:]] == [refused.name, absent.name, "attention-rollout"]
    reasons = [row["reason"] for row in added[2:]]
    assert "nothing" in reasons[0]
    assert reasons[1] == "no such operation in this model"
    assert "vision transformer" in reasons[2]
    assert all(row["inside"] == "" for row in added[2:])

    monkeypatch.setattr(ablation, "recognise", lambda *arguments: pytest.fail("there was nothing left to judge"))
    ablate("small", SHARED, ledger, [constant, refused], Half.CHOOSE)
    assert read(ledger.path) == added
    assert [row["variant"] for row in order_rows(added, [none, constant])] == ["gradient none", "constant"]


def test_values_are_written_and_read() -> None:
    text = spell(torch.tensor([0.123456, -2.0, torch.nan]))
    assert text == "0.1235 -2 nan"
    assert np.array_equal(read_values({"gain": text}, "gain"), [0.1235, -2, np.nan], equal_nan=True)
    assert len(read_values({"gain": ""}, "gain")) == 0


@pytest.mark.full
def test_redrawn_copies_are_compared(small: Recognised) -> None:
    redrawn = redraw(small, 2)
    found = ablation.judge(find_variant("gradient none"), small, redrawn).values
    still = ablation.judge(find_variant("centre"), small, redrawn).values
    assert len(redrawn.pictures.x) == 2
    for measure in ("redrawn_last", "redrawn_half", "redrawn_all", "other_class"):
        assert found[measure].shape == (2,)
        assert (still[measure] > 0.999).all()
    assert (found["redrawn_all"] < 0.8).all()
    outputs = small.model(redrawn.pictures.x)
    for output, target, second in zip(outputs, redrawn.pictures.target, redrawn.runner_up, strict=True):
        others = [index for index in range(5) if index != target]
        assert second == others[int(output[others].argmax())]


@needs_assets
@pytest.mark.full
def test_on_real_weights(tmp_path: Path) -> None:
    arguments = ["ablation", "--models", "squeezenet1_1", "--variants", "c[eo]*", "--default", "random"]
    few = ["--objects", "3", "--pictures", "4", "--redrawn", "0", "--half", "report"]
    result = CliRunner().invoke(app, [*arguments, *few, "--shared", str(SHARED), "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.csv")
    version = torch.__version__.partition("+")[0]
    assert path.name == f"ablation-report-4pictures-cpu-float32-1threads-torch{version}.csv"
    rows = {row["variant"]: row for row in read(path)}
    assert list(rows) == ["random", "constant", "centre"]
    assert all(len(read_values(row, "inside")) == 3 and len(read_values(row, "quadrant")) == 4 for row in rows.values())
    assert "| `constant` |" in result.output


@needs_assets
@pytest.mark.full
def test_finalists_are_scored_with_gae_beside_the_controls(tmp_path: Path) -> None:
    folders = ["--shared", str(SHARED), "--results", str(tmp_path), "--files", str(tmp_path / "runs")]
    arguments = [
        "gae",
        "--models",
        "squeezenet1_1",
        "--pictures",
        "4",
        "--half",
        "report",
        "--finalists",
        "gradient none",
    ]
    result = CliRunner().invoke(app, [*arguments, *folders])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("gae-report-4pictures-*.csv")
    assert {row["method"] for row in read(path)} == {"gradient none", "random", "constant", "centre"}
    assert (tmp_path / "runs" / "squeezenet1_1-report-4pictures.h5").is_file()


@pytest.mark.parametrize("command", ["ablation", "gae"])
def test_unknown_models_and_missing_pictures_are_one_clear_line(command: str, tmp_path: Path) -> None:
    folders = ["--shared", str(tmp_path), "--results", str(tmp_path)]
    for arguments, words in ((["--models", "nobody"], "no weights known for nobody"), ([], "pass --shared DIR")):
        result = CliRunner().invoke(app, [command, *arguments, *folders])
        assert result.exit_code == 1
        assert result.output.startswith("benchmarks: no ")
        assert words in result.output
        assert len(result.output.splitlines()) == 1
