"""What the shell completes of values."""

from __future__ import annotations

import subprocess
import sys

import pytest

from relprop.cli import app
from relprop.cli.completion import complete_method, complete_model, model_names
from relprop.evaluation.methods import list_methods
from relprop.models import list_models
from tests.helpers.cli import run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("explain --rules abslrp-c", {"abslrp-composite"}),
        ("explain --contrast lo", {"log-odds"}),
        ("check --model tf_efficientnet_lite", {f"tf_efficientnet_lite{k}" for k in range(5)}),
        ("evaluate -m gradient,attention-", {"gradient,attention-rollout"}),
        ("evaluate -m cap", {"captum."}),
    ],
)
def test_the_shell_is_told_the_values_of_an_option(words: str, expected: set[str]) -> None:
    line = f"relprop {words}"
    environment = {"_RELPROP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = run.invoke(app, [], env=environment, prog_name="relprop")
    assert set(result.stdout.split()) == expected


def test_the_names_of_models_are_those_that_can_be_listed() -> None:
    listed = {model.name.removeprefix("torchvision/") for model in list_models("*")}
    assert listed <= set(model_names())
    assert complete_model("vit_tiny_patch16_2") == ["vit_tiny_patch16_224"]


def test_methods_of_a_library_are_listed_once_it_is_named() -> None:
    pytest.importorskip("captum", reason='needs pip install "relprop[methods]"')
    expected = [method.name for method in list_methods("captum.Integrated*")]
    assert complete_method("random,captum.Integrated") == [f"random,{name}" for name in expected]


def test_nobody_waits_for_torch() -> None:
    code = (
        "import sys; from relprop.cli import completion as c; "
        "assert c.complete_model('resnet1') and c.complete_rules('g') and c.complete_method('ran'); "
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
