"""``relprop check``, and the commands that list things."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

import rule_registry
from relprop.cli import app
from rule_registry.purposes import OTHERS, PURPOSES, SHARP
from tests.helpers.cli import assert_one_line, run
from tests.helpers.paths import ROOT


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.full
def test_check_prints_a_verdict(packaged):
    result = run.invoke(app, ["check"])
    assert result.exit_code == 0, result.output
    assert "verdict: computed correctly, as abslrp is defined, and conserved" in result.output


def test_check_as_json(desk):
    result = run.invoke(app, ["check", "cat.jpg", "--model", "own:make", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["problems"] == []
    assert report["oracle_error"] < 1e-8
    assert report["conservation_error"] < 1e-4
    assert {"operation": "aten.relu.default", "rule": "passes", "count": 2} in report["operations"]


@pytest.mark.full
def test_check_names_model_and_weights_and_leaves_out_a_picture_that_cannot_be_read(desk):
    Path("broken.jpg").write_bytes(b"no picture")
    result = run.invoke(app, ["check", "broken.jpg", "cat.jpg", "--model", "own:make"])
    assert result.exit_code == 1
    assert re.fullmatch(r"relprop: cannot read picture broken.jpg: .*\n", result.stderr)
    assert result.stdout.splitlines()[:2] == ["own:make under abslrp", "weights: function own:make"]
    assert "verdict: computed correctly" in result.stdout
    result = run.invoke(app, ["check", "broken.jpg", "--model", "own:make"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[1] == "relprop: no picture is left to check on"


def test_check_fails_where_rules_are_missing(desk):
    result = run.invoke(app, ["check", "cat.jpg", "--model", "own:uncovered", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert "aten.i0.default" in report["problems"][0]
    assert report["stability"] is None


@pytest.mark.full
def test_check_as_json_is_json_where_the_model_fails(desk):
    result = run.invoke(app, ["check", "cat.jpg", "--model", "own:nan", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert "NaN" in report["problems"][0]
    assert result.stderr.count("\n") == 1


@pytest.mark.full
def test_check_explains_rules(desk):
    model = ["check", "cat.jpg", "--model", "own:make", "--rules", "epsilon-plus-flat"]
    plain, told = run.invoke(app, model), run.invoke(app, [*model, "--explain-rules"])
    rows, report = told.stdout.split("\n\n")
    assert (plain.exit_code, told.exit_code) == (0, 0), told.output
    assert report.splitlines()[:-3] == plain.stdout.splitlines()[:-3]  # but for the time it took
    assert [row.split()[0] for row in rows.splitlines()] == ["_0", "_1", "_2", "_3", "_4", "_5", "_6"]
    assert rows.splitlines()[0].endswith(
        "flat(stabilizer=1e-06), from the override: op aten.conv2d.default, layer first"
    )
    found = json.loads(run.invoke(app, [*model, "--explain-rules", "--json"]).stdout)
    assert [" ".join(row.split()) for row in rows.splitlines()] == [
        " ".join(row.values()) for row in found["assignment"]
    ]
    assert list(found["assignment"][0]) == ["name", "operation", "why"]
    assert "assignment" not in json.loads(run.invoke(app, [*model, "--json"]).stdout)


@pytest.mark.full
def test_check_compares_with_weights_drawn_anew(desk):
    result = run.invoke(app, ["check", "cat.jpg", "--model", "own:make", "--randomize", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)["randomization"]
    assert found
    printed = run.invoke(app, ["check", "cat.jpg", "--model", "own:make", "--randomize"])
    assert "Adebayo" in printed.output


@pytest.mark.full
def test_check_of_a_model_with_one_output(desk):
    for contrast in ([], ["--contrast", "none"], ["--contrast", "log-odds"]):
        result = run.invoke(app, ["check", "cat.jpg", "--model", "own:one", *contrast])
        assert result.exit_code == 0, result.output


def test_the_version_is_told():
    lines = run.invoke(app, ["--version"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["relprop", "torch", "torchvision", "timm", "python"]
    assert f"torch {torch.__version__.partition('+')[0]}" in lines[1]


def test_rules_are_listed_and_shown():
    listed = run.invoke(app, ["rules"]).stdout
    facts = "contrast rest; 2 backward passes; conserves relevance; delta=0.01, signed=True"
    assert re.search(rf"^  abslrp +positive contributions.*\n +{facts}$", listed, re.MULTILINE)
    assert all(len(re.findall(rf"^  {name} ", listed, re.MULTILINE)) == 1 for name in rule_registry.names())
    assert re.search(r"aten\.relu\.default +pass", run.invoke(app, ["rules", "abslrp"]).stdout)


def test_rule_sets_stand_under_what_they_are_good_for(own_registry):
    rule_registry.define("a-descendant", "of absLRP", base="abslrp")
    rule_registry.define("a-stranger", "of nobody", base="structural")
    rule_registry.define("a-guest", "for sounds", base="epsilon", purpose="spectrograms", contrast="rest")
    groups = dict(re.findall(r"^(\S.*):\n((?:  .*\n)+)", run.invoke(app, ["rules"]).stdout, re.MULTILINE))
    assert list(groups)[: len(PURPOSES)] == list(PURPOSES)
    assert "  a-descendant " in groups[SHARP]
    assert "  a-stranger " in groups[OTHERS]
    assert re.search(r"a-guest +for sounds\n +contrast rest; 1 backward pass; measures", groups["spectrograms"])
    assert re.search(r"a-stranger .*\n +contrast none; 1 backward pass$", groups[OTHERS], re.MULTILINE)


def test_models_are_listed_with_where_their_weights_are(packaged):
    at_hand = run.invoke(app, ["models"]).stdout
    assert re.search(r"^tf_efficientnet_lite0 +timm +weights in an installed package$", at_hand, re.MULTILINE)
    found = run.invoke(app, ["models", "vit_tiny*"]).stdout
    assert re.search(r"^vit_tiny_patch16_224 +timm +weights are downloaded when needed$", found, re.MULTILINE)
    assert_one_line(run.invoke(app, ["models", "vit_tinny*"]), "no model .*vit_tinny")


@pytest.mark.sweep(every=5)
@pytest.mark.parametrize("command", ["rules", "explain", "check", "metrics", "models"])
def test_the_example_of_each_help_works(packaged, desk, command):
    assert cv2.imwrite("cat.jpg", cv2.imread(str(packaged[0])))
    text = " ".join(run.invoke(app, [command, "--help"]).output.split())
    example = re.search(r"Example: relprop (.*)$", text)[1]
    assert example.startswith(command)
    result = run.invoke(app, shlex.split(example))
    assert result.exit_code == 0, result.output


def test_every_command_has_such_an_example():
    named = [command.name or command.callback.__name__ for command in app.registered_commands]
    known = "app cache check compare evaluate explain export merge methods metrics models plot report rules summary"
    assert sorted(named) == [*known.split(), "validate"]  # whoever adds one runs its example in a test
    for name in named:
        text = " ".join(run.invoke(app, [name, "--help"]).output.split())
        assert re.search(rf"Example: relprop {name}\b", text), name


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "relprop", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    assert shown.startswith("Usage: relprop ")


def test_the_console_script_is_there():
    script = Path(sys.executable).with_name("relprop")
    if not script.exists():
        pytest.skip("relprop is not installed in this environment")
    assert "explain" in subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
