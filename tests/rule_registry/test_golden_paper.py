"""The rule set ``abslrp-paper`` against records of the authors' first public code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from tests.rule_registry.test_golden import GOLDEN, NAMES, load

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/golden is not beside this checkout")


@pytest.fixture(scope="module", params=NAMES)
def recorded(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, Tensor]]:
    return load(request.param)


def errors(found: Tensor, expected: Tensor) -> Tensor:
    """Relative L2 distance of each sample's map."""
    found, expected = found.flatten(1), expected.flatten(1)
    assert expected.any(1).all()
    return (found - expected).norm(dim=1) / expected.norm(dim=1)


@pytest.mark.sweep(every=4)
def test_maps_of_both_seeds(recorded: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, record = recorded
    found = relprop.explain(model, record["x"], rules="abslrp-paper")
    torch.testing.assert_close(found.output, record["logits"])
    assert torch.equal(found.target, record["target"])
    target, rest = found.seeds["x"]
    assert float(errors(target, record["paper_target"]).max()) <= 1e-6
    assert float(errors(rest, record["paper_rest"]).max()) <= 1e-6
    assert torch.equal(found.relevance, target - rest)


@pytest.mark.sweep(every=4)
def test_map_of_the_signed_seed(recorded: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, record = recorded
    if "paper_signed" not in record:
        pytest.skip("the authors' code draws Vision Transformers from two seeds alone")
    rules = rule_registry.get("abslrp-paper", seed="signed")
    found = relprop.explain(model, record["x"], rules=rules)
    assert found.seeds["x"].shape == (1, *record["x"].shape)
    assert float(errors(found.relevance, record["paper_signed"]).max()) <= 1e-6
