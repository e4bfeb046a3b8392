"""Batch norms behind a layer: the map is that of the one layer both make, however many the model spells."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fusion

import relprop
import rule_registry
from tests.helpers.models import Lambda, distance, seeded, settled

aten = torch.ops.aten


class Normed(nn.Module):
    """Batch norms behind convolutions (one transposed), a residual, a dense layer; one behind an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6, affine=False)
        self.up, self.norm3 = nn.ConvTranspose2d(6, 4, 2, 2), nn.BatchNorm2d(4)
        self.dense, self.norm4 = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 5)
        self.late = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.first(x)).relu()
        x = (x + self.norm2(self.second(x))).relu()
        x = self.norm3(self.up(x)).relu().mean((2, 3))
        return self.head(self.late(self.norm4(self.dense(x)).relu()))


PAIRS = {"first": "norm1", "second": "norm2", "up": "norm3", "dense": "norm4"}


def fused(model: nn.Module) -> nn.Module:
    """The same model with one layer in place of each pair, as torch itself fuses them."""
    model = copy.deepcopy(model)
    for layer, norm in PAIRS.items():
        given, behind = getattr(model, layer), getattr(model, norm)
        if isinstance(given, nn.Linear):
            one: nn.Module = fusion.fuse_linear_bn_eval(given, behind)
        else:
            one = fusion.fuse_conv_bn_eval(given, behind, transpose=isinstance(given, nn.ConvTranspose2d))
        setattr(model, layer, one)
        setattr(model, norm, nn.Identity())
    return model.eval()


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    model = settled(seeded(Normed), torch.randn(16, 3, 6, 6)).double()
    with torch.no_grad():
        model.norm1.weight[::2] *= -1  # a negative gain turns the signs of all contributions
    return model, fused(model), torch.randn(3, 3, 6, 6, dtype=torch.float64)


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("name", [n for n in rule_registry.names() if rule_registry.get(n).mass == "measured"])
def test_one_layer_however_it_is_spelled(name: str, pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, one, x = pair
    rules = rule_registry.get(name, low=-6.0, high=6.0) if "box" in name else rule_registry.get(name)
    found, expected = relprop.explain(model, x, rules=rules), relprop.explain(one, x, rules=rules)
    assert distance(found.relevance, expected.relevance) <= 1e-9
    torch.testing.assert_close(found.conservation.masses[-1], expected.conservation.masses[-1])
    assert found.conservation.error <= 1e-9 * float(found.conservation.masses.abs().max().clamp(min=1))


def test_the_plan_and_the_layers_show_it(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, _, x = pair
    explainer = relprop.Explainer(model, rules="epsilon-plus", layers=["first", "norm1", "late"])
    plan = explainer.plan(x)
    assert {layer.name for layer in plan.merged} == set(PAIRS)
    assert plan.why(plan.merged[next(n for n in plan.merged if n.name == "first")].name) == (
        "one layer with first, whose rule holds for both"
    )
    e = explainer(x)
    assert torch.equal(e.layers["first"], e.layers["norm1"])
    assert e.layers["late"].any()


@pytest.mark.full
def test_a_changed_statistic_takes_effect(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, _, x = pair
    model = copy.deepcopy(model)
    explainer = relprop.Explainer(model, rules="z-plus")
    before = explainer(x, target=0).relevance
    with torch.no_grad():
        model.norm1.running_mean += 0.5
    after = explainer(x, target=0).relevance
    assert distance(after, before) > 1e-3
    assert distance(after, relprop.explain(fused(model), x, rules="z-plus", target=0).relevance) <= 1e-9


def test_a_rule_of_ones_own_for_batch_norm_wins(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, _, x = pair

    def first_part(call: Any, relevance: Any) -> Tensor:
        return relevance[0]

    rules = rule_registry.get("z-plus").derive({aten._native_batch_norm_legit_no_training.default: first_part})
    assert not relprop.Explainer(model, rules=rules).plan(x).merged
    own, usual = (relprop.explain(model, x, rules=r).relevance for r in (rules, "z-plus"))
    assert distance(own, usual) > 1e-3


def test_what_is_used_twice_is_not_merged() -> None:
    torch.manual_seed(0)
    model = Lambda(lambda m, x: m.norm(h := m.layer(x)) + h, layer=nn.Linear(4, 5), norm=nn.BatchNorm1d(5)).eval()
    plan = relprop.Explainer(model, rules="epsilon").plan(torch.randn(2, 4))
    assert not plan.merged
    assert relprop.explain(model, torch.randn(2, 4), rules="epsilon").relevance.any()


@pytest.mark.parametrize("length", [4, 5])
def test_a_dense_layer_whose_outputs_are_no_channels_is_not_merged(length: int) -> None:
    """On (B, T, F) the layer's outputs lie on the last axis, and the norm's channels on the second."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 4, bias=False), nn.BatchNorm1d(length), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(4 * length, 3, bias=False)).double().eval()
    model[1].running_var.uniform_(0.2, 2)
    x = torch.randn(2, length, 6, dtype=torch.float64)
    assert not relprop.Explainer(model, rules="lrp-0").plan(x).merged
    found, expected = (relprop.explain(model, x, rules=name).relevance for name in ("lrp-0", "input-times-gradient"))
    assert distance(found, expected) <= 1e-9


def test_absolute_magnitude_rules_do_not_merge(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    """There a batch norm is an affine layer of its own."""
    model, _, x = pair
    for rules in ("abslrp", "gradient"):
        assert not relprop.Explainer(model, rules=rules).plan(x).merged
