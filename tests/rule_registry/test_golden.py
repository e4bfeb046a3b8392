"""The rule set ``abslrp-released`` against records of the authors' own code."""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from tests.helpers.paths import SHARED

GOLDEN = SHARED / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/golden is not beside this checkout")
NAMES = ["vgg", "resnet_basic", "resnet_bottleneck", "vit"]


def load(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    config = json.loads((GOLDEN / "models.json").read_text())[name]
    module, _, kind = config["cls"].rpartition(".")
    library = importlib.import_module(module)
    options: dict[str, Any] = dict(config["kwargs"])
    if "block" in options:
        options["block"] = getattr(library, options["block"])
    with np.load(GOLDEN / f"{name}.npz") as file:
        record = {key: torch.as_tensor(file[key]) for key in file}
    model = getattr(library, kind)(**options)
    model.load_state_dict({key[2:]: value for key, value in record.items() if key.startswith("w.")})
    return model.double().eval(), record


@pytest.fixture(scope="module", params=NAMES)
def explained(request: pytest.FixtureRequest) -> tuple[relprop.Explanation, dict[str, Tensor]]:
    model, record = load(request.param)
    return relprop.explain(model, record["x"], rules="abslrp-released"), record


@pytest.mark.sweep(every=4)
def test_output_and_target(explained: tuple[relprop.Explanation, dict[str, Tensor]]) -> None:
    found, record = explained
    torch.testing.assert_close(found.output, record["logits"])
    assert torch.equal(found.target, record["target"])


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize(("seed", "key"), list(enumerate(["target_map", "rest_map"])), ids=["target", "rest"])
def test_map_of_each_seed(explained: tuple[relprop.Explanation, dict[str, Tensor]], seed: int, key: str) -> None:
    found, expected = explained[0].seeds["x"][seed].flatten(1), explained[1][key].flatten(1)
    assert float((found - expected).norm() / expected.norm()) <= 1e-6
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.any():
            assert float((ours - theirs).norm() / theirs.norm()) <= 1e-6
        else:
            assert not ours.any()


def test_map_is_divided_by_its_largest_magnitude(explained: tuple[relprop.Explanation, dict[str, Tensor]]) -> None:
    found, record = explained
    difference = (record["target_map"] - record["rest_map"]).flatten(1)
    assert difference.any(1).all()
    expected = difference / difference.abs().amax(1, keepdim=True)
    assert float((found.relevance.flatten(1) - expected).abs().max()) <= 1e-4
    torch.testing.assert_close(found.relevance.flatten(1).abs().amax(1), torch.ones(8, dtype=torch.float64))


def test_the_released_rules_do_not_conserve(explained: tuple[relprop.Explanation, dict[str, Tensor]]) -> None:
    assert not explained[0].conservation.conserves
    assert "does not conserve" in str(explained[0].conservation)
