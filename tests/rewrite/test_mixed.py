"""Rule sets that mix rules which conserve mass with rules which do not: what arrives with both signs is netted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from rule_registry import RuleSet, select
from tests.helpers.models import KINDS, distance, kept, pictures, seeded

aten = torch.ops.aten
DELTA, STABILIZER = 0.1, 1e-6


def mixed(path: str = "2") -> RuleSet:
    """Return absLRP with LRP-epsilon for one layer."""
    epsilon = rule_registry.get("epsilon").table[aten.linear.default]
    return rule_registry.get("abslrp", delta=DELTA).derive({select(op=aten.linear.default, path=path): epsilon})


def network() -> nn.Module:
    layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4)]
    return seeded(lambda: nn.Sequential(*layers)).double()


def by_abslrp(x: Tensor, layer: nn.Linear, arrived: Tensor, evidence: bool = False) -> Tensor:
    """Share by what counts of each contribution, rescaled to the mass that arrives: for one sample, by hand."""
    z = layer.weight @ x + layer.bias
    sign = torch.ones_like(z) if evidence else torch.where(z < 0, -1.0, 1.0)
    counted = (layer.weight * x * sign[:, None]).clamp(min=0)
    shares = counted.T @ (arrived / (z.abs() + DELTA * z.abs().mean()))
    return shares * arrived.sum() / shares.sum() if arrived.sum() else shares


def by_epsilon(x: Tensor, layer: nn.Linear, arrived: Tensor) -> Tensor:
    z = layer.weight @ x + layer.bias
    return x * (layer.weight.T @ (arrived / (z + STABILIZER * torch.where(z < 0, -1.0, 1.0))))


def test_both_parts_go_through_apart_and_are_netted_behind_the_step() -> None:
    model = network()
    x = torch.randn(3, 5, dtype=torch.float64)
    e = relprop.explain(model, x, target=1, contrast=None, rules=mixed(), layers=["1"])
    with torch.no_grad():
        for k in range(3):
            first, second = torch.tanh(model[0](x[k])), torch.tanh(model[2](torch.tanh(model[0](x[k]))))
            seed = torch.eye(4, dtype=torch.float64)[1]
            at_second = by_abslrp(second, model[4], seed, evidence=True)
            at_first = by_epsilon(first, model[2], at_second)
            assert (at_first < 0).any()
            torch.testing.assert_close(e.layers["1"][k], at_first, rtol=1e-9, atol=1e-12)
            parts = [by_abslrp(x[k], model[0], part) for part in (at_first.clamp(min=0), -at_first.clamp(max=0))]
            torch.testing.assert_close(e.relevance[k], parts[0] - parts[1], rtol=1e-9, atol=1e-12)


def test_the_report_says_which_steps_hand_on_all_that_arrives() -> None:
    e = relprop.explain(network(), torch.randn(3, 5, dtype=torch.float64), rules=mixed())
    kept_ = e.conservation
    assert not kept_.conserves
    assert kept_.mixed
    assert {cut.operation: cut.conserves for cut in kept_.cuts if cut.path == "2"} == {"aten.linear.default": False}
    assert kept_.error < 1e-12, "what is absorbed is counted"
    assert "operations hand on all that arrives" in str(kept_)
    assert [cut.path for cut in kept_.losses] == ["2"]
    torch.testing.assert_close(next(iter(e.seeds.values())).sum(2), kept_.masses[-1])


def test_rule_sets_say_what_their_rules_say() -> None:
    pure, both, epsilon = rule_registry.get("abslrp"), mixed(), rule_registry.get("epsilon")
    assert (pure.conserves, pure.measures) == (True, False)
    assert (both.conserves, both.measures) == (False, True)
    assert (epsilon.conserves, epsilon.measures) == (False, True)
    assert not both.linear
    assert rule_registry.get("gradient").describe().endswith("mass ignored")
    assert both.describe().endswith("mass conserved or measured, by rule")


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize("name", ["abslrp-composite", "mixed"])
@pytest.mark.parametrize("kind", ["plain", "convolutional", "transformer"])
@pytest.mark.parametrize("contrast", [None, "rest", "log-odds", 2])
def test_models_of_every_kind(kind: str, name: str, contrast: str | int | None) -> None:
    rules = mixed("*") if name == "mixed" else rule_registry.get(name)
    e = relprop.explain(kept(kind), KINDS[kind][1](3), rules=rules, contrast=contrast, target=[0, 1, 3])
    assert e.relevance.isfinite().all()
    assert e.relevance.any()
    assert e.conservation.error < 1e-4


def test_a_hook_in_a_mixed_set_may_return_both_signs() -> None:
    model, x = network(), torch.randn(3, 5, dtype=torch.float64)
    flipped = relprop.explain(model, x, rules=mixed(), contrast=None, hooks={"2": lambda info, r: -r})
    plain = relprop.explain(model, x, rules=mixed(), contrast=None)
    assert distance(flipped.relevance, -plain.relevance) < 1e-12


def test_a_mixed_program_exports(tmp_path: object) -> None:
    model, x = seeded(lambda: kept("plain")), pictures(2)
    explainer = relprop.Explainer(model, rules="abslrp-composite")
    exported = torch.export.export(explainer.program(x), (x,), strict=False)
    torch.testing.assert_close(exported.module()(x)["relevance"][0], explainer.program(x)(x)["relevance"][0])
