"""Relevance that is not multiplied out between rules is the relevance of the same rules that multiply out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from rule_registry import Call, Rule, RuleSet
from rule_registry.factored import Factored, behind_function, plus, whole
from tests.helpers.models import KINDS, distance, doubled, kept, pictures

aten = torch.ops.aten
SETS: Mapping[str, Mapping[str, float]] = {
    "epsilon": {"epsilon": 0.25, "stabilizer": 0.1},
    "lrp-0": {},
    "epsilon-plus": {},
    "attnlrp": {"conv_gamma": 0.0, "dense_gamma": 0.0},
    "cp-lrp": {"dense_gamma": 0.0},
    "reslrp": {"stabilizer": 1e-3},
    "abslrp-composite": {},
}
HOOKED = {"convolutional": "branch.*", "transformer": "blocks.0*", "encoder-norm-first": "*"}


def multiplied_out(rules: RuleSet) -> RuleSet:
    """Return a rule set each rule of which takes products and returns them."""

    def one(rule: Rule) -> Rule:
        def function(call: Call, relevance: Any) -> Any:
            found = rule.function(call, relevance)
            return whole(tuple(found) if isinstance(found, list) else found)

        return rule if rule.kind != "rule" else replace(rule, function=function, factored=False)

    return replace(
        rules,
        table={op: one(rule) for op, rule in rules.table.items()},
        overrides=tuple((where, one(rule)) for where, rule in rules.overrides),
    )


@cache
def in_double(kind: str) -> nn.Module:
    """Return a model for all tests, so that they share its capture."""
    return doubled(kept(kind))


@pytest.mark.sweep(every=24)
@pytest.mark.parametrize("kind", HOOKED)
@pytest.mark.parametrize("name", SETS)
def test_maps_layers_masses_and_what_hooks_see_stay_as_they_are(name: str, kind: str) -> None:
    model, x = in_double(kind), KINDS[kind][1](3).double()
    rules = rule_registry.get(name, **SETS[name])
    found = []
    for one in (rules, multiplied_out(rules)):
        seen: list[Tensor] = []
        hooks = {HOOKED[kind]: lambda info, r, seen=seen: seen.append(r.clone())}
        e = relprop.explain(model, x, target=[0, 1, 2], rules=one, layers=[HOOKED[kind]])
        hooked = relprop.explain(model, x, target=[0, 1, 2], rules=one, hooks=hooks)
        assert distance(hooked.relevance, e.relevance) < 1e-12
        found.append((e, seen))
    (e, seen), (wanted, expected) = found
    assert wanted.relevance.any()
    assert distance(e.relevance, wanted.relevance) < 1e-9
    assert e.layers.keys() == wanted.layers.keys()
    for path, layer in e.layers.items():
        parts = ([r] if isinstance(r, Tensor) else r for r in (layer, wanted.layers[path]))  # one for each call
        assert all(distance(a, b) < 1e-9 for a, b in zip(*parts, strict=True))
    assert len(seen) == len(expected) > 0
    assert all(distance(a, b) < 1e-9 for a, b in zip(seen, expected, strict=True))
    masses = zip(e.conservation.cuts, wanted.conservation.cuts, strict=True)
    for cut, other in masses:
        assert (cut.name, cut.rule, cut.suspect) == (other.name, other.rule, other.suspect)
        torch.testing.assert_close(cut.mass, other.mass, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(cut.lost, other.lost, rtol=1e-8, atol=1e-9)


def test_relevance_between_layers_is_not_multiplied_out() -> None:
    """What the form is for: a layer, its rectifier and the layer before it exchange gradients."""
    program = relprop.Explainer(kept("plain"), rules="epsilon").program(pictures(2))
    arrived: list[Any] = []
    for module in program.modules():
        if getattr(getattr(module, "site", None), "op", None) == aten.conv2d.default:
            module.register_forward_pre_hook(lambda _, given: arrived.append(given[0]))
    program(pictures(2))
    assert [type(relevance) for relevance in arrived] == [Factored, Tensor]  # behind max-pooling it is multiplied out
    assert arrived[0].own


def test_a_function_of_single_entries_leaves_a_value_that_is_not_its_inputs() -> None:
    value, gradient = torch.tensor([[2.0, 0.0]]), torch.tensor([[[3.0, 5.0]]])
    relevance = Factored(value, gradient)
    assert not behind_function(relevance).own
    assert torch.equal(whole(behind_function(relevance)), torch.tensor([[[6.0, 0.0]]]))
    assert behind_function(gradient) is gradient


def test_sums_of_one_value_sum_gradients_and_masses() -> None:
    value, gradient = torch.tensor([[2.0, 0.5]]), torch.tensor([[[3.0, 4.0]]])
    one = Factored(value, gradient, mass=torch.tensor([[8.0]]))
    both = plus(one, Factored(value, 2 * gradient, own=False, mass=torch.tensor([[16.0]])))
    assert isinstance(both, Factored)
    assert torch.equal(whole(both), torch.tensor([[[18.0, 6.0]]]))
    assert torch.equal(both.mass, torch.tensor([[24.0]]))  # type: ignore[arg-type]
    assert not both.own
    assert plus(one, Factored(value, gradient)).mass is None  # type: ignore[union-attr]
    other = plus(one, Factored(value.clone(), gradient))
    assert isinstance(other, Tensor)
    assert torch.equal(other, torch.tensor([[[12.0, 4.0]]]))
