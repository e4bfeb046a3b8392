"""The registry: who finds which rule, what derives from what, and how mistakes are answered."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm

import relprop
import rule_registry
from relprop.errors import MissingRuleError
from rule_registry import (
    BatchAxis,
    Call,
    Choice,
    Relevances,
    Rule,
    Site,
    Slot,
    blocks,
    passes,
    registry,
    rule_set,
    select,
)
from tests.helpers.models import Lambda

pytestmark = pytest.mark.usefixtures("own_registry")
aten = torch.ops.aten


def site(op: Any = aten.relu.default, path: str = "", module: str = "torch.nn.modules.activation.ReLU") -> Site:
    return Site(op, path, module, (Slot("self"),), (False,), (BatchAxis(0),), BatchAxis(0))


def doubled(call: Call, relevance: Tensor) -> Relevances:
    return 2 * relevance


def scaled(call: Call, relevance: Tensor, *, delta: float) -> Relevances:
    return relevance * delta


def value_of(rule: Rule | None, delta: float = 1.0) -> float:
    """What a rule makes of a relevance of one."""
    assert rule is not None
    call = Call(site(), {"self": torch.ones(1)}, torch.ones(1))
    relevance = rule(call, torch.ones(1, 1))
    assert isinstance(relevance, Tensor)
    return float(relevance)


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
    with pytest.raises(TypeError, match=r"'abslrp' has no parameter \['epsilon'\]; it accepts: delta"):
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


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"overrides": ((select(layer="first"), blocks),)}, TypeError, r"\['overrides'\]; there are: conserves, "),
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


def test_tensors_are_parameters_too() -> None:
    rules = rule_registry.get("z-box", low=torch.tensor([-1.0, -2.0, -3.0]), high=torch.tensor(2.5))
    assert rules is rule_registry.get("z-box", low=(-1, -2, -3), high=2.5)


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
        with pytest.raises(ValueError, match='contrast "rest" or None, and seed "one" or "output"'):
            rule_registry.define("mine", "…", **wrong)
    assert "mine" not in rule_registry.names()


@pytest.mark.parametrize("returned", [None, 3, [None], "relevance"])
def test_what_is_no_relevance_is_told_with_the_place(returned: Any) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(2, 3)
    rules = rule_registry.get("abslrp").derive({aten.relu.default: lambda call, relevance: returned})
    with pytest.raises(
        relprop.RuleError, match=r"<lambda> returned a \w+ for aten\.relu\.default in 1 \(ReLU\).*share"
    ):
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


# Deriving


def test_deriving_never_changes_the_parent() -> None:
    parent = rule_registry.get("abslrp")
    before = (dict(parent.table), parent.overrides, dict(parent.parameters), str(parent))
    child = parent.derive({aten.relu.default: doubled, select(path="head"): blocks}, name="child")
    grandchild = child.derive({aten.relu.default: blocks})
    assert (dict(parent.table), parent.overrides, dict(parent.parameters), str(parent)) == before
    assert rule_registry.get("abslrp") is parent
    assert parent.find(site()) is passes
    assert value_of(child.find(site())) == 2
    assert grandchild.find(site()) is blocks
    with pytest.raises(TypeError):
        parent.table[aten.relu.default] = blocks  # type: ignore[index]


def test_names_of_derived_rule_sets() -> None:
    parent = rule_registry.get("abslrp")
    assert parent.derive({}).name == "abslrp (derived)"
    child = parent.derive({aten.relu.default: doubled}, name="mine", summary="twice as much")
    assert (child.name, child.summary) == ("mine", "twice as much")
    assert str(child).startswith("mine: twice as much\n")
    assert "doubled" in str(child)
    assert (child.contrast, child.conserves) == (parent.contrast, parent.conserves)


def test_derived_rules_get_the_parameters() -> None:
    derived = rule_registry.get("abslrp", delta=0.5).derive({aten.relu.default: scaled})
    assert value_of(derived.find(site())) == 0.5


def test_later_overrides_win() -> None:
    parent = rule_registry.get("abslrp")
    narrow, wide = select(path="blocks.*"), aten.relu.default
    inside, outside = site(path="blocks.3"), site(path="head")
    first_wide = parent.derive({wide: doubled, narrow: blocks})
    assert first_wide.find(inside) is blocks
    assert value_of(first_wide.find(outside)) == 2
    first_narrow = parent.derive({narrow: blocks, wide: doubled})
    assert value_of(first_narrow.find(inside)) == 2
    assert value_of(parent.derive({narrow: blocks}).derive({wide: doubled}).find(inside)) == 2


def test_a_rule_of_its_own_wins_over_a_narrower_one_of_the_base() -> None:
    rule_registry.define("base", "…")
    rule_registry.register("base", aten.relu.default, rule=passes)
    rule_registry.register("base", select(path="blocks.*"), rule=blocks)
    rule_registry.define("heir", "…", base="base")
    rule_registry.register("heir", aten.relu.default, rule=doubled)
    inside = site(path="blocks.3")
    assert rule_registry.get("base").find(inside) is blocks
    assert value_of(rule_registry.get("heir").find(inside)) == 2
    assert rule_registry.get("heir").find(site(aten.gelu.default, "blocks.3")) is blocks


# Saying why


def test_why_a_site_has_its_rule() -> None:
    rules = rule_registry.get("gamma", gamma=0.1).derive({select(path="head.*"): blocks})
    inside, outside = site(path="head.1"), site(aten.linear.default, "body")
    assert rules.explain(inside) == Choice(blocks, select(path="head.*"))
    assert str(rules.explain(inside)) == "blocks, from the override: path head.*"
    assert str(rules.explain(outside)).startswith("gamma(gamma=0.1, stabilizer=1e-06), from the ")
    assert rules.explain(site(aten.erfinv.default)) is None
    anything = rule_registry.get("gradient").explain(site())
    assert str(anything) == "vector_jacobian_product, the rule of anything else"
    for there in (inside, outside, site(aten.erfinv.default)):
        choice = rules.explain(there)
        assert rules.find(there) is (None if choice is None else choice.rule)


def test_a_printed_rule_set_is_a_table_in_order_of_precedence() -> None:
    rules = rule_registry.get("epsilon-gamma-box", low=-1.0, high=(1, 2, 3)).derive({select(path="head.*"): blocks})
    title, settings, _, *rows = str(rules).splitlines()
    assert title == f"{rules.name}: {rules.summary}"
    assert settings == (
        "parameters epsilon=1e-06, gamma=0.25, high=(1, 2, 3), low=-1, stabilizer=1e-06; seed output; contrast none; "
        "mass measured"
    )
    assert rows[0].split("  ")[1] == "path head.*"
    assert rows[0].endswith("  blocks")
    text = [" ".join(row.split()) for row in rows]
    first = text.index("op aten.conv2d.default, layer first z_box(high=(1, 2, 3), low=-1, stabilizer=1e-06)")
    assert first < text.index("aten.conv2d.default gamma(gamma=0.25, stabilizer=1e-06)")
    columns = {len(row) - len(re.split("  +", row)[-1]) for row in rows}
    assert len(columns) == 1, "the rules stand in one column"


def test_a_plan_says_why() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    plan = relprop.Explainer(model, rules="epsilon-plus-flat").plan(torch.rand(2, 3))
    assert plan.why("_0") == "flat(stabilizer=1e-06), from the override: op aten.linear.default, layer first"
    assert plan.why("_1") == "passes, from the table: aten.relu.default"
    assert plan.why("_2") == "epsilon(epsilon=1e-06), from the table: aten.linear.default"
    assert [row.split()[0] for row in str(plan).splitlines()] == ["_0", "_1", "_2"]
    with pytest.raises(KeyError, match="no operation 'head'"):
        plan.why("head")


# Selecting


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("blocks.*.attn", "blocks.0.attn", True),
        ("blocks.*.attn", "blocks.11.attn", True),
        ("blocks.*.attn", "blocks.0.attn.qkv", False),
        ("blocks.*", "blocks.0.attn", True),
        ("blocks.[01].attn", "blocks.2.attn", False),
        ("", "", True),
        ("", "head", False),
        ("Head", "head", False),
    ],
)
def test_select_by_path(pattern: str, path: str, matches: bool) -> None:
    assert select(path=pattern).matches(site(path=path)) is matches


def test_select_by_module_class() -> None:
    here = site()
    for module in (nn.ReLU, "ReLU", "torch.nn.modules.activation.ReLU"):
        assert select(module=module).matches(here)
    for module in (nn.GELU, "relu", "ReLU6", "activation.ReLU"):
        assert not select(module=module).matches(here)


def test_select_by_everything_together() -> None:
    chosen = select(op=aten.relu.default, path="a.*", module=nn.ReLU)
    assert chosen.matches(site(path="a.b"))
    assert not chosen.matches(site(path="b"))
    assert not chosen.matches(site(aten.gelu.default, "a.b"))
    assert not chosen.matches(site(path="a.b", module="GELU"))
    assert str(select(op=aten.relu.default, path="a.*")) == "op aten.relu.default, path a.*"


def test_select_of_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="a path, a module class or a layer"):
        select()


def test_select_in_a_model() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).eval()
    rules = rule_registry.get("abslrp").derive({select(path="1"): blocks, select(module=nn.Linear): passes})
    plan = relprop.Explainer(model, rules=rules).plan(torch.rand(2, 3))
    found = {s.path: plan.assigned[node].kind for node, s in plan.sites.items()}
    assert found == {"0": "passes", "1": "blocks", "2": "passes", "3": "passes"}


REFUSED: dict[str, tuple[Any, Callable[[Any, Tensor], Tensor], str]] = {
    "a layer": (
        aten.linear.default, lambda m, x: m.head(x).mean(1),
        r"passes is the rule of aten\.linear.* in head .*output \(\w+, 3, 5\) is not .* its input \(\w+, 3, 4\)",
    ),
    "a pooling": (aten.max_pool1d.default, lambda m, x: m.head(F.max_pool1d(F.pad(x, (0, 4)), 2)[:, 0]), "3, 4.*3, 8"),
    "several outputs": (aten.max.dim, lambda m, x: m.head(x.max(1).values), r"output \(\w+, 4\) .*\(\w+, 3, 4\)"),
    "not the first": (aten.split.Tensor, lambda m, x: m.head(x.split(2, 1)[1][:, 0]), r"output \(\w+, 2, 4\)"),
    "the first and others": (
        aten.split_with_sizes.default, lambda m, x: m.head(torch.cat(x.split([3, 0], 1), 1).mean(1)), "the first alone",
    ),
    "copies": (
        aten.clamp.Tensor, lambda m, x: m.head(x[:, 0].clamp(torch.zeros(2, 1, 4)).mean(0)), r"output \(2, \w+, 4\)",
    ),
    "several inputs": (aten.maximum.default, lambda m, x: m.head(x.maximum(-x)[:, 0]), "to 2 inputs"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_can_not_pass_unchanged_is_refused(case: tuple[Any, Callable[[Any, Tensor], Tensor], str]) -> None:
    op, function, message = case
    model = Lambda(function, head=nn.Linear(4, 5)).eval()
    rules = rule_registry.get("abslrp").derive({op: passes})
    with pytest.raises(relprop.RuleError, match=message):
        relprop.explain(model, torch.randn(2, 3, 4), rules=rules)


def test_the_first_of_several_outputs_passes() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 2, 2)
    norm = aten._native_batch_norm_legit_no_training.default
    e = relprop.explain(model, x, rules=rule_registry.get("abslrp").derive({norm: passes}), layers=["0", "1"])
    assert torch.equal(e.layers["0"], e.layers["1"])
    assert e.conservation.error <= 1e-5


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

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry.load_plugins.cache_clear()
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


# Documentation


def test_the_examples_run() -> None:
    for module in (registry, rule_set):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


def test_first_and_last_layer_are_found_in_a_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    plan = relprop.Explainer(model).plan(torch.randn(2, 3, 4, 4))
    marked = {site.path: (site.first, site.last) for site in plan.sites.values() if site.first or site.last}
    assert marked == {"0": (True, False), "4": (False, True)}
    flat = rule_registry.get("abslrp").derive({select(layer="first"): blocks})
    assert [flat.find(site) is blocks for site in plan.sites.values()] == [True, False, False, False, False]
    assert str(select(layer="last")) == "layer last"
    with pytest.raises(ValueError, match='"first", "input" or "last"'):
        select(layer="middle")  # type: ignore[arg-type]


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of old": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "standardised": lambda layer: ScaledStdConv2d(3, 4, 3, padding=0) if isinstance(layer, nn.Conv2d) else layer,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated", "ignore:The tensor attributes")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_a_layer_whose_weight_is_computed_is_one(wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    layers = [wrap(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Flatten(), wrap(nn.Linear(16, 3))]
    plan = relprop.Explainer(nn.Sequential(*layers).eval(), rules="epsilon-plus-flat").plan(torch.randn(2, 3, 6, 6))
    sites = plan.sites.values()
    assert [site.path for site in sites if site.first] == [site.path for site in sites if site.input] == ["0"]
    assert [site.path for site in sites if site.last] == ["4"]
    assert [node.name for node, rule in plan.assigned.items() if rule.name == "flat"] == [next(iter(plan.sites)).name]


def test_a_factor_of_a_matrix_product_is_a_weight_and_that_of_an_entry_is_none() -> None:
    def forward(m: Lambda, x: Tensor) -> Tensor:
        return torch.addmm(m.shift, (x * m.gain).relu() @ m.first, (m.last * 2).T)

    torch.manual_seed(0)
    shapes = {"gain": (1, 5), "first": (5, 4), "last": (3, 4), "shift": (3,)}
    model = Lambda(forward, **{name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}).eval()
    sites = relprop.Explainer(model).plan(torch.randn(2, 5)).sites.values()
    assert [site.op for site in sites if site.first] == [aten.matmul.default]
    assert [site.op for site in sites if site.last] == [aten.addmm.default]


class TwoStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.mixed, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x - self.mean)
        return self.head((self.wide(x) + self.mixed(torch.relu(self.narrow(x)))).mean((2, 3)))


def test_layers_at_the_input_are_found_in_a_model() -> None:
    plan = relprop.Explainer(TwoStems().eval()).plan(torch.randn(2, 3, 4, 4))
    assert [site.path for site in plan.sites.values() if site.input] == ["wide", "narrow"]
    assert [site.path for site in plan.sites.values() if site.first] == ["wide"]
    chosen = rule_registry.get("abslrp").derive({select(layer="input", module="Conv2d", path="n*"): blocks})
    assert [site.path for site in plan.sites.values() if chosen.find(site) is blocks] == ["narrow"]
    inner = relprop.Explainer(TwoStems().eval(), at="narrow").plan(torch.randn(2, 3, 4, 4))
    assert [site.path for site in inner.sites.values() if site.input] == ["mixed"]
