"""The ablation: what it compares, how it pairs, that it goes on where it ended."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import relprop
import rule_registry
from benchmarks.__main__ import app
from benchmarks.quality import ablation, variants
from benchmarks.quality.ablation import AblationRow, ablate, judge, markdown, paired_interval
from benchmarks.quality.classifiers import CLASSIFIERS
from benchmarks.quality.recognised import Pictures, Recognised
from benchmarks.records.ledger import Ledger
from benchmarks.records.tables import columns
from relprop.metrics import energy_inside, perturbation_curves
from tests.helpers.paths import ROOT

SHARED = ROOT.parent / "shared"
LOW, HIGH = (-3.0,) * 3, (3.0,) * 3


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
    x, masks = torch.randn(6, 3, 224, 224).clamp(-3, 3), torch.zeros(3, 224, 224, dtype=torch.bool)
    masks[:, :112, :56] = True
    objects = Pictures(x[:3], torch.tensor([0, 1, 2]), (4, 7, 8), masks)
    return Recognised(
        "small", model, CLASSIFIERS["mobilenet_v2"], objects, Pictures(x[3:], torch.tensor([3, 4, 0]), (0, 1, 2))
    )


def only(monkeypatch: pytest.MonkeyPatch, recognised: Recognised, *names: str) -> None:
    """Let the ablation find these pictures, and only the variants of these names."""
    listed = {variant.name: variant for variant in variants.variants(LOW, HIGH)}
    monkeypatch.setattr(ablation, "recognise", lambda *arguments: recognised)
    monkeypatch.setattr(ablation, "variants", lambda *bounds: [listed[name] for name in names])


# What is compared


def test_every_rule_set_and_every_choice_is_compared_with_the_default() -> None:
    listed = variants.variants(LOW, HIGH)
    assert listed[0].name == variants.DEFAULT == "abslrp"
    assert len({variant.name for variant in listed}) == len(listed)
    assert {variant.name for variant in listed if variant.kind == "rule set"} == set(rule_registry.names())
    assert listed[0].rules is not None
    assert 0.01 not in variants.DELTAS.values()
    assert listed[0].rules.parameters["delta"] == 0.01
    box = next(variant.rules for variant in listed if variant.name == "z-box")
    assert box is not None
    assert (box.parameters["low"], box.parameters["high"]) == (LOW, HIGH)


def test_bounds_are_what_black_and_white_become() -> None:
    low, high = CLASSIFIERS["vit_tiny_patch16_224"].bounds
    assert (low, high) == ((-1.0,) * 3, (1.0,) * 3)


def test_every_choice_changes_the_map(small: Recognised) -> None:
    sites = relprop.Explainer(small.model).plan(small.objects.x).sites.values()
    listed = variants.variants(LOW, HIGH)
    default = listed[0].maps(small, small.objects)
    for variant in listed:
        if variant.kind == "choice":
            assert variant.changes(sites), variant.name
            assert not torch.allclose(variant.maps(small, small.objects), default, rtol=1e-3, atol=0), variant.name


def test_a_choice_about_nothing_in_the_model_is_known(small: Recognised) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    sites = relprop.Explainer(plain).plan(torch.randn(2, 3, 8, 8)).sites.values()
    about = {variant.name for variant in variants.variants(LOW, HIGH) if variant.changes(sites)}
    assert about & variants.CHOICES.keys() == set()
    assert about >= {*variants.DELTAS, "contrast: none", "random", "epsilon"}


# How it is judged


def test_a_control_is_judged_by_hand(small: Recognised) -> None:
    constant = judge(variants.Variant("control", "constant"), small)
    assert torch.allclose(constant["inside"], torch.full((3,), 0.125))
    assert torch.allclose(constant["pointing"], torch.full((3,), 0.125))
    assert constant["srg"].tolist() == [0, 0, 0]
    assert torch.equal(constant["insertion"], constant["deletion"])


def test_batches_do_not_matter(small: Recognised, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = variants.Variant("rule set", "epsilon", rule_registry.get("epsilon"))
    found = judge(rules, small)
    monkeypatch.setattr(ablation, "BATCH", 1)
    for measure, values in judge(rules, small).items():
        assert torch.allclose(values, found[measure], atol=1e-5), measure
    relevance = relprop.explain(small.model, small.labelled.x, target=small.labelled.target, rules="epsilon").relevance
    curves = perturbation_curves(
        small.model, small.labelled.x, relevance, small.labelled.target, steps=ablation.STEPS, region=ablation.REGION
    )
    assert torch.allclose(found["srg"], curves.relevance_gain, atol=1e-5)
    relevance = relprop.explain(small.model, small.objects.x, target=small.objects.target, rules="epsilon").relevance
    assert small.objects.masks is not None
    assert torch.allclose(found["inside"], energy_inside(relevance, small.objects.masks).value, atol=1e-5)


def test_interval_of_paired_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(60, generator=generator) * 100
    gain = torch.randn(60, generator=generator, dtype=torch.float64) + 2
    mean, low, high = paired_interval(reference + gain, reference.double())
    assert mean == pytest.approx(float(gain.mean()), abs=1e-5)
    # Not that few values: the normal interval, which knows nothing of the spread of the reference.
    half = 1.96 * float(gain.std()) / 60**0.5
    assert low == pytest.approx(mean - half, abs=0.05)
    assert high == pytest.approx(mean + half, abs=0.05)
    assert paired_interval(reference + gain, reference.double()) == (mean, low, high)
    assert paired_interval(reference, reference) == (0, 0, 0)
    assert paired_interval(torch.ones(5), torch.zeros(5)) == (1, 1, 1)


# Rows


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_added_once_and_a_broken_method_says_why(
    small: Recognised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "rows.csv", AblationRow)
    only(monkeypatch, small, "abslrp", "constant")
    ablate("small", SHARED, ledger)
    rows = read(ledger.path)
    assert list(rows[0]) == columns(AblationRow)
    assert [row["variant"] for row in rows] == ["abslrp", "constant"]
    assert [row["objects"] for row in rows] == ["3", "3"]
    assert [row["pictures"] for row in rows] == ["3", "3"]
    assert [rows[0][f"{measure}_gain"] for measure in ablation.PAIRED] == ["0", "0", "0"]
    for measure in ablation.PAIRED:
        difference = float(rows[1][measure]) - float(rows[0][measure])
        assert float(rows[1][f"{measure}_gain"]) == pytest.approx(difference, abs=2e-3)
        assert float(rows[1][f"{measure}_low"]) <= difference + 2e-3

    only(monkeypatch, small, "abslrp", "constant", "abslrp-released", "random")
    without = replace(rule_registry.get("abslrp-released"), name="holey", table={}, default=None)
    listed = [replace(v, rules=without) if v.name == "abslrp-released" else v for v in ablation.variants()]
    monkeypatch.setattr(ablation, "variants", lambda *bounds: listed)
    ablate("small", SHARED, ledger, chosen="*r*")
    added = read(ledger.path)
    assert added[:2] == rows
    assert [row["variant"] for row in added[2:]] == ["abslrp-released", "random"]
    assert "no rule" in added[2]["reason"]
    assert added[2]["inside"] == ""
    assert added[3]["reason"] == ""

    monkeypatch.setattr(ablation, "judge", lambda *arguments: pytest.fail("there was nothing left to judge"))
    ablate("small", SHARED, ledger)
    assert read(ledger.path) == added


def row(variant: str, model: str, kind: str = "rule set", **values: str) -> Mapping[str, str]:
    intervals = {f"{measure}_{end}": "0" for measure in ablation.PAIRED for end in ("low", "high")}
    return {"variant": variant, "model": model, "kind": kind, "reason": "", **intervals, **values}


def test_table_marks_what_clearly_leaves_the_default() -> None:
    rows = [
        row("abslrp", "a", inside="0.512", srg="-0.1"),
        row("other", "a", inside="0.6", srg="0.2", inside_low="0.01", inside_high="0.1", srg_low="-1", srg_high="1"),
        row("abslrp", "b", inside="0.5", srg="0.25"),
        row("other", "b", reason="no rule for it"),
        row("random", "a", "control", inside="0.4", srg="0", srg_low="-0.3", srg_high="-0.1"),
    ]
    assert markdown(rows, ("rule set", "control"), "method").splitlines() == [
        "| method | a | b |",
        "| --- | --- | --- |",
        "| abslrp | 0.51 -0.10 | 0.50 0.25 |",
        "| other | 0.60↑ 0.20 | - |",
        "| random | 0.40 0.00↓ |  |",
    ]
    assert "random" not in markdown(rows, ("rule set",), "method")


def test_all_models_are_recorded() -> None:
    (path,) = (ROOT / "benchmarks" / "results").glob("ablation-*.csv")
    assert {row["model"] for row in read(path)} == set(CLASSIFIERS)


@pytest.mark.skipif(not (SHARED / "assets").is_dir(), reason="the shared pictures and weights are not here")
def test_on_real_weights(tmp_path: Path) -> None:
    arguments = ["ablation", "--models", "squeezenet1_1", "--variants", "c[eo]*", "--objects", "3", "--pictures", "3"]
    result = CliRunner().invoke(app, [*arguments, "--shared", str(SHARED), "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.csv")
    version = torch.__version__.partition("+")[0]
    assert path.name == f"ablation-3objects-3pictures-cpu-float32-1threads-torch{version}.csv"
    rows = {row["variant"]: row for row in read(path)}
    assert list(rows) == ["contrast: none", "constant", "centre"]
    assert all(0 <= float(row["inside"]) <= 1 and 0 < float(row["insertion"]) < 1 for row in rows.values())
    assert "| constant |" in result.output


@pytest.mark.parametrize("command", ["ablation", "gae"])
def test_unknown_models_and_missing_pictures_are_one_clear_line(command: str, tmp_path: Path) -> None:
    folders = ["--shared", str(tmp_path), "--results", str(tmp_path)]
    for arguments, words in ((["--models", "nobody"], "no weights known for nobody"), ([], "pass --shared DIR")):
        result = CliRunner().invoke(app, [command, *arguments, *folders])
        assert result.exit_code == 1
        assert result.output.startswith("benchmarks: no ")
        assert words in result.output
        assert len(result.output.splitlines()) == 1
