"""Parameters of rule sets: defaults, bases, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import rule_registry
from rule_registry import Call, Relevances
from tests.helpers.rules import scaled, site, value_of

pytestmark = pytest.mark.usefixtures("own_registry")
aten = torch.ops.aten


def test_defaults_of_abslrp() -> None:
    rules = rule_registry.get("abslrp")
    assert rules.parameters == {"delta": 1e-2, "signed": True}
    assert rules.contrast == "rest"
    assert rules.conserves
    assert not rule_registry.get("gradient").conserves


def test_parameters_replace_defaults() -> None:
    rule_registry.define("mine", "…", parameters={"delta": 3.0})
    rule_registry.register("mine", aten.relu.default)(scaled)
    assert value_of(rule_registry.get("mine").find(site())) == 3
    assert value_of(rule_registry.get("mine", delta=5.0).find(site())) == 5
    assert value_of(rule_registry.get("mine").find(site())) == 3


def test_parameters_of_a_base_are_inherited_and_replaced() -> None:
    rule_registry.define("mine", "…", parameters={"delta": 3.0})
    rule_registry.register("mine", aten.relu.default)(scaled)
    rule_registry.define("heir", "…", base="mine")
    rule_registry.define("other heir", "…", base="mine", parameters={"delta": 7.0})
    assert value_of(rule_registry.get("heir").find(site())) == 3
    assert value_of(rule_registry.get("other heir").find(site())) == 7


def test_unknown_parameter_names_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"'abslrp' has no parameter \['epsilon'\]; it accepts: delta, signed"):
        rule_registry.get("abslrp", epsilon=1.0)
    with pytest.raises(TypeError, match="it accepts: none"):
        rule_registry.get("gradient", delta=1.0)


@pytest.mark.parametrize("value", ["0.1", None, [], [1, "2"], "", {"a": 1}])
def test_a_parameter_that_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match="'gamma' must be a number, or one for each channel"):
        rule_registry.get("gamma", gamma=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [0.0, float("nan")]])
def test_a_parameter_that_is_not_finite(value: Any) -> None:
    with pytest.raises(ValueError, match="'low' must be finite"):
        rule_registry.get("z-box", low=value)


REFUSED_PARAMETERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "delta": ("abslrp", {"delta": -1.0}, "'abslrp': delta=-1 must be one number that is not negative"),
    "several deltas": ("abslrp", {"delta": (0.1, 0.2)}, r"delta=\(0\.1, 0\.2\) must be one number"),
    "epsilon": ("epsilon", {"epsilon": -0.05}, "epsilon=-0.05 must"),
    "stabilizer": ("flat", {"stabilizer": -1e-6}, "'flat': stabilizer=-1e-06 must"),
    "both": ("attnlrp", {"epsilon": -1, "stabilizer": [1, 2]}, r"epsilon=-1, stabilizer=\(1, 2\) must"),
    "gamma": ("gamma", {"gamma": -0.5}, "gamma=-0.5 must"),
    "gamma with bounds": ("epsilon-gamma-box", {"gamma": -0.5}, "gamma=-0.5 must"),
    "alphas": ("alpha-beta", {"alpha": (2.0, 2.0)}, r"one number each, not alpha=\(2, 2\) and beta=1"),
    "bounds": ("z-box", {"low": 3.0, "high": -3.0}, "low must be below high in every channel, not 3 and -3"),
    "bounds of channels": ("epsilon-gamma-box", {"low": (0, 1, 0), "high": 1.0}, "low must be below high"),
    "channels": ("z-box", {"low": (0, 0, 0), "high": (1, 1)}, "low is for 3 channels and high for 2"),
}


@pytest.mark.parametrize("case", REFUSED_PARAMETERS.values(), ids=REFUSED_PARAMETERS.keys())
def test_a_parameter_that_no_rule_can_work_with(case: tuple[str, dict[str, Any], str]) -> None:
    name, parameters, message = case
    with pytest.raises(ValueError, match=message):
        rule_registry.get(name, **parameters)


def test_tensors_are_parameters_too() -> None:
    rules = rule_registry.get("z-box", low=torch.tensor([-1.0, -2.0, -3.0]), high=torch.tensor(2.5))
    assert rules is rule_registry.get("z-box", low=(-1, -2, -3), high=2.5)


def test_a_fixed_parameter_is_no_longer_accepted() -> None:
    rule_registry.define("mine", "…", parameters={"delta": 3.0})
    rule_registry.register("mine", aten.relu.default)(scaled)
    rule_registry.define("heir", "…", base="mine", fixed={"delta": 2.0})
    assert value_of(rule_registry.get("heir").find(site())) == 2
    assert rule_registry.get("heir").parameters == {"delta": 2.0}
    with pytest.raises(TypeError, match="it accepts: none"):
        rule_registry.get("heir", delta=4.0)


def test_a_parameter_may_be_a_sequence() -> None:
    rule_registry.define("mine", "…", parameters={"low": 0.0})
    assert rule_registry.get("mine", low=[1, 2.5]).parameters == {"low": (1, 2.5)}
    assert rule_registry.get("mine", low=[1, 2.5]) is rule_registry.get("mine", low=(1, 2.5))


def test_a_rule_that_needs_a_missing_parameter() -> None:
    with pytest.raises(TypeError, match="scaled needs the parameter 'delta'; its rule set has: none"):
        rule_registry.get("gradient").derive({aten.relu.default: scaled})


def test_a_parameter_with_a_default_of_its_own() -> None:
    def rule(call: Call, relevance: Tensor, *, factor: float = 4.0) -> Relevances:
        return relevance * factor

    derived = rule_registry.get("abslrp").derive({aten.relu.default: rule})
    assert value_of(derived.find(site())) == 4


def test_a_rule_that_is_bound_stays_bound() -> None:
    """The rule of one rule set keeps that one's parameter where another borrows it."""
    rule_registry.define("mine", "…", parameters={"delta": 3.0})
    rule_registry.register("mine", aten.relu.default)(scaled)
    borrowed = rule_registry.get("mine").table[aten.relu.default]
    derived = rule_registry.get("abslrp").derive({aten.relu.default: borrowed})
    assert value_of(derived.find(site())) == 3
