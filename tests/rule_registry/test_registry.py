"""The registry: which rule sets there are, how rules are registered, and how mistakes are answered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop.errors import MissingRuleError
from rule_registry import Call, blocks, passes, plugins, registry, select
from tests.helpers.rules import doubled, site, value_of

pytestmark = pytest.mark.usefixtures("own_registry")
aten = torch.ops.aten


# Names and parameters


def test_the_rule_sets_there_are() -> None:
    assert {"abslrp", "abslrp-released", "gradient"} <= set(rule_registry.names())
    assert rule_registry.names() == sorted(rule_registry.names())
    for name in rule_registry.names():
        rules = rule_registry.get(name)
        assert rules.name == name
        assert rules.summary
        assert rules.summary in str(rules)


def test_unknown_rule_set_names_those_there_are() -> None:
    with pytest.raises(LookupError, match=r"'abslpr'; .*there are: .*abslrp.*gradient"):
        rule_registry.get("abslpr")
    with pytest.raises(LookupError, match="'abslpr'"):
        rule_registry.register("abslpr", aten.relu.default)
    rule_registry.define("mine", "…", base="abslpr")
    with pytest.raises(LookupError, match="'mine' is built on 'abslpr'"):
        rule_registry.get("mine")


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"overrides": ((select(layer="first"), blocks),)}, TypeError, r"\['overrides'\]; there are: contrast, "),
        ({"own": ()}, TypeError, r"no setting \['own'\]"),
        ({"parameters": {"delta": float("nan")}}, ValueError, "'delta' must be finite"),
        ({"fixed": {"delta": "1"}}, TypeError, "'delta' must be a number"),
        ({"default": 3}, TypeError, "a rule is a function"),
    ],
)
def test_what_can_not_be_built_is_refused_where_it_is_defined(wrong: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        rule_registry.define("mine", "…", base="abslrp", **wrong)
    assert "mine" not in rule_registry.names()


def test_a_mistyped_rule_set_is_told_where_it_is_named() -> None:
    with pytest.raises(LookupError, match=r"'gama'; near names: gamma; there are: abslrp, (?!.*structural)"):
        rule_registry.get("gama")
    with pytest.raises(LookupError, match=r"arguments, as in rule_registry\.get\('gamma', \.\.\.\)"):
        rule_registry.get("gamma:gamma=0.1")
    model = nn.Linear(3, 4)
    with pytest.raises(MissingRuleError, match="near names: gamma"):
        relprop.Explainer(model, rules="gama")
    for wrong in (None, 3, passes, {"relu": passes}):
        with pytest.raises(TypeError, match="rules must be the name of a rule set"):
            relprop.Explainer(model, rules=wrong)  # type: ignore[arg-type]


# Registering


def test_register_returns_the_function() -> None:
    rule_registry.define("mine", "…")
    assert rule_registry.register("mine", aten.relu.default)(doubled) is doubled
    assert rule_registry.get("mine").table[aten.relu.default].name == "doubled"


def test_several_operations_share_a_rule() -> None:
    rule_registry.define("mine", "…")
    rule_registry.register("mine", aten.relu.default, aten.gelu.default, rule=doubled)
    table = rule_registry.get("mine").table
    assert set(table) == {aten.relu.default, aten.gelu.default}


def test_get_is_refreshed_after_register() -> None:
    rule_registry.define("mine", "…")
    rule_registry.define("heir", "…", base="mine")
    assert rule_registry.get("mine").find(site()) is None
    assert rule_registry.get("heir").find(site()) is None
    rule_registry.register("mine", aten.relu.default, rule=passes)
    assert rule_registry.get("mine").find(site()) is passes
    assert rule_registry.get("heir").find(site()) is passes
    assert rule_registry.get("mine") is rule_registry.get("mine")


def test_duplicates_raise() -> None:
    rule_registry.define("mine", "…")
    rule_registry.register("mine", aten.relu.default)(doubled)
    with pytest.raises(ValueError, match=r"'mine' already has the rule doubled for aten\.relu\.default"):
        rule_registry.register("mine", aten.relu.default, rule=passes)
    with pytest.raises(ValueError, match="'abslrp' already has the rule linear"):
        rule_registry.register("abslrp", aten.linear.default)(doubled)
    with pytest.raises(ValueError, match="defined already"):
        rule_registry.define("abslrp", "…")


def run_cell(factor: float) -> None:
    """What a notebook cell does each time it runs."""
    rule_registry.define("cell", f"times {factor}", base="abslrp")

    def scaled(call: Call, relevance: Tensor) -> Tensor:
        return factor * relevance

    rule_registry.register("cell", aten.relu.default, select(path="head"))(scaled)


def test_a_cell_that_runs_again_replaces_what_it_registered() -> None:
    run_cell(2)
    rule_registry.register("cell", aten.gelu.default, rule=passes)
    run_cell(3)
    found = rule_registry.get("cell")
    assert found.summary == "times 3"
    assert found.find(site()).function(None, 1) == 3
    assert len(found.overrides) == 1 + sum(s.op is not None for s, _ in found.overrides)
    assert found.table[aten.gelu.default] is passes, "what another cell registered stays"
    rule_registry.register("cell", aten.gelu.default, rule=passes)
    with pytest.raises(ValueError, match=r"already has the rule scaled for aten\.relu\.default"):
        rule_registry.register("cell", aten.relu.default)(doubled)
    with pytest.raises(ValueError, match=r"'abslrp' is defined already, by rule_registry\.abslrp\.definition"):
        rule_registry.define("abslrp", "…")


def test_the_same_selection_twice_raises() -> None:
    rule_registry.define("mine", "…")
    rule_registry.register("mine", select(path="a.*"), rule=doubled)
    rule_registry.register("mine", select(path="b.*"), rule=doubled)
    with pytest.raises(ValueError, match=r"already has the rule doubled for path a\.\*"):
        rule_registry.register("mine", select(path="a.*"), rule=passes)


def test_a_refused_registration_leaves_nothing_behind() -> None:
    rule_registry.define("mine", "…")
    rule_registry.register("mine", aten.gelu.default, rule=passes)
    for wrong in (aten.gelu.default, aten.silu):
        with pytest.raises((ValueError, TypeError)):
            rule_registry.register("mine", aten.relu.default, select(path="a"), wrong, rule=doubled)
    rules = rule_registry.get("mine")
    assert set(rules.table) == {aten.gelu.default}
    assert not rules.overrides


def test_an_operation_without_its_overload_is_refused() -> None:
    """``aten.relu`` equals no node of any graph: silently, it would never be chosen."""
    for wrong in (aten.relu, "aten.relu.default", torch.relu):
        with pytest.raises(TypeError, match=r"aten\.relu\.default"):
            rule_registry.get("abslrp").derive({wrong: passes})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match=r"aten\.relu\.default"):
            rule_registry.register("abslrp", wrong, rule=passes)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"aten\.relu\.default"):
            select(op=wrong)  # type: ignore[arg-type]


def test_a_rule_that_can_not_be_called_is_refused() -> None:
    rules = rule_registry.get("abslrp")
    for wrong, told in (("passes", "'passes'"), (3, "3"), (rules, "the rule set 'abslrp'")):
        message = rf"function of \(call, relevance\) .* not {told}$"
        with pytest.raises(TypeError, match=message):
            rules.derive({aten.relu.default: wrong})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match=message):
            rules.derive(default=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=message):
            rule_registry.register("abslrp", aten.digamma.default, rule=wrong)  # type: ignore[arg-type]


def test_a_base_refuses_for_its_heirs() -> None:
    rule_registry.define(
        "mine", "…", parameters={"low": 0.0, "high": 1.0}, refuse=lambda p: "low" * (p["low"] > p["high"])
    )
    rule_registry.define("heir", "…", base="mine")
    assert rule_registry.get("heir", low=0.5).parameters["low"] == 0.5
    with pytest.raises(ValueError, match="rule set 'heir': low"):
        rule_registry.get("heir", low=2.0)


def test_a_rule_for_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="needs the operations"):
        rule_registry.register("abslrp")


def test_settings_have_few_values() -> None:
    for wrong in ({"contrast": "others"}, {"seed": "two"}):
        with pytest.raises(ValueError, match='"log-odds" or None, and seed "one", "output" or "signed"'):
            rule_registry.define("mine", "…", **wrong)
    assert "mine" not in rule_registry.names()


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("returned", [None, 3, [None], "relevance"])
def test_what_is_no_relevance_is_told_with_the_place(returned: Any) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(2, 3)
    rules = rule_registry.get("abslrp").derive({aten.relu.default: lambda call, relevance: returned})
    with pytest.raises(
        relprop.RuleError, match=r"<lambda> returned a \w+ for aten\.relu\.default in 1 \(ReLU\).*share"
    ):
        relprop.explain(model, x, rules=rules)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda relevance: relevance, "TypeError: .* takes 1 positional argument but 2 were given"),
        (lambda call, relevance: relevance * call["slope"], "KeyError: 'slope'"),
    ],
)
def test_a_rule_that_fails_is_told_with_the_place_and_what_it_is_given(rule: Any, words: str) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(2, 3)
    rules = rule_registry.get("abslrp").derive({aten.relu.default: rule})
    place = r"rule <lambda> fails for aten\.relu\.default in 1 \(ReLU\)"
    with pytest.raises(relprop.RuleError, match=rf"{place}.*: {words}.*\(call, relevance\).* the arguments self$"):
        relprop.explain(model, x, rules=rules)


def test_unknown_setting() -> None:
    with pytest.raises(TypeError, match=r"\['contrasts'\]"):
        rule_registry.define("mine", "…", contrasts="rest")
    assert "mine" not in rule_registry.names()


def test_absence_is_an_error_unless_declared() -> None:
    """Passing and blocking are rules; an operation without one is an error that names it."""
    rule_registry.define("mine", "…", base="structural")
    model, x = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Sigmoid()).eval(), torch.rand(2, 3)
    rule_registry.register("mine", aten.relu.default, rule=passes)
    with pytest.raises(MissingRuleError, match=r"aten\.sigmoid\.default"):
        relprop.explain(model, x, rules="mine")
    rule_registry.register("mine", aten.sigmoid.default, rule=passes)
    passed = relprop.explain(model, x, rules="mine", target=1).relevance
    assert torch.equal(passed, torch.tensor([0.0, 1.0, 0.0]).expand(2, 3))
    blocked = rule_registry.get("mine").derive({aten.sigmoid.default: blocks})
    assert not relprop.explain(model, x, rules=blocked, target=1).relevance.any()


def test_default_rule_of_a_rule_set() -> None:
    rule_registry.define("mine", "…", default=passes)
    assert rule_registry.get("mine").find(site(aten.erf.default)) is passes
    assert "anything else" in str(rule_registry.get("mine"))


# Plug-ins


class EntryPoint:
    """What `importlib.metadata` would find in an installed package."""

    class _Distribution:
        name = "their-rules"

    dist = _Distribution()
    name, value = "theirs", "their_rules.registration"

    def __init__(self, action: Any) -> None:
        self.action = action
        self.loaded = 0

    def load(self) -> None:
        self.loaded += 1
        self.action()


def install(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        return list(entries) if group == "rule_registry.rules" else []

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    plugins.load_plugins.cache_clear()
    registry._get.cache_clear()


def test_plug_ins_are_loaded_once_and_before_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def register() -> None:
        rule_registry.define("theirs", "rules from elsewhere", base="abslrp")
        rule_registry.register("theirs", aten.relu.default, rule=doubled)
        rule_registry.register("abslrp", aten.digamma.default, rule=passes)

    entry = EntryPoint(register)
    install(monkeypatch, entry)
    assert value_of(rule_registry.get("theirs").find(site())) == 2
    assert rule_registry.get("abslrp").find(site(aten.digamma.default)) is passes
    assert "theirs" in rule_registry.names()
    assert entry.loaded == 1


def test_a_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("what a mess")

    install(monkeypatch, EntryPoint(fail))
    with pytest.raises(ImportError, match=r"their-rules .*'theirs' .*ZeroDivisionError: what a mess"):
        rule_registry.names()
