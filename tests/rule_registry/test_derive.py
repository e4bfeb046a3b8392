"""Derived rule sets, which rule wins, and why."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import relprop
import rule_registry
from rule_registry import Choice, blocks, passes, select
from tests.helpers.rules import doubled, scaled, site, value_of

pytestmark = pytest.mark.usefixtures("own_registry")
aten = torch.ops.aten


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
