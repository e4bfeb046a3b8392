"""Rule sets in other processes."""

from __future__ import annotations

import pickle

import pytest
import torch

import rule_registry

aten = torch.ops.aten


@pytest.mark.parametrize("name", rule_registry.names())
def test_a_registered_rule_set_is_found_again(name: str) -> None:
    rules = rule_registry.get(name)
    assert pickle.loads(pickle.dumps(rules)) is rules


def test_parameters_and_what_was_derived_come_along() -> None:
    flat = rule_registry.get("abslrp", delta=0.02)
    assert pickle.loads(pickle.dumps(flat)) is flat
    changes = {
        aten.digamma.default: rule_registry.passes,
        rule_registry.select(aten.relu.default, path="blocks.*"): rule_registry.blocks,
    }
    derived = flat.derive(changes, name="mine", default=rule_registry.positive_contribution)
    again = pickle.loads(pickle.dumps(derived))
    assert (again.name, again.own) == (derived.name, derived.own)
    assert str(again) == str(derived)
    twice = pickle.loads(pickle.dumps(again.derive({aten.erf.default: rule_registry.passes})))
    assert aten.erf.default in twice.operations()


def test_what_is_no_name_is_told() -> None:
    by_hand = rule_registry.RuleSet("by hand", "made of nothing", {})
    with pytest.raises(pickle.PicklingError, match="made by hand"):
        pickle.dumps(by_hand)
