"""What rules and operations declare of themselves, and rule sets that are put together in any order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import rule_registry
from rule_registry import Call, LayerArguments, Rule, fold_into, layer_arguments, passes, select, weights_of
from rule_registry.operations import layers
from tests.helpers.matrix_form import compare_with_formula
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.usefixtures("own_registry")
aten = torch.ops.aten


def doubled(call: Call, relevance: Tensor) -> Tensor:
    return 2 * relevance


def scaled(call: Call, relevance: Tensor, *, delta: float) -> Tensor:
    return delta * relevance


# Rule sets in any order


def test_a_base_may_come_after_the_rule_set_that_names_it() -> None:
    rule_registry.define("heir", "…", base="late")
    rule_registry.register("heir", aten.gelu.default, rule=doubled)
    with pytest.raises(LookupError, match="rule set 'heir' is built on 'late': no rule set named 'late'"):
        rule_registry.get("heir")
    rule_registry.define("late", "…", base="abslrp")
    rule_registry.register("late", aten.relu.default, rule=doubled)
    table = rule_registry.get("heir").table
    assert table[aten.relu.default].function is table[aten.gelu.default].function is doubled
    assert str(table[aten.linear.default]) == "linear"


def test_a_circle_of_bases_is_an_error() -> None:
    rule_registry.define("one", "…", base="two")
    rule_registry.define("two", "…", base="three")
    rule_registry.define("three", "…", base="one")
    with pytest.raises(ValueError, match="in a circle: two -> three -> one -> two"):
        rule_registry.get("two")


def test_the_order_of_parameters_makes_no_other_rule_set() -> None:
    one = rule_registry.get("alpha-beta", alpha=3.0, beta=2.0)
    assert rule_registry.get("alpha-beta", beta=2.0, alpha=3.0) is one
    assert rule_registry.get("alpha-beta", beta=2.0, alpha=3.0, epsilon=0.1) is not one


def test_register_with_a_rule_is_no_decorator() -> None:
    rule_registry.define("mine", "…")
    assert rule_registry.register("mine", aten.relu.default, rule=passes) is None


# What rules declare


def test_all_of_structural_moves_in_every_rule_set() -> None:
    structural = rule_registry.get("structural").table
    assert len(structural) > 50
    for name in rule_registry.names():
        table = rule_registry.get(name).table
        assert all(rule.moves for op, rule in table.items() if rule == structural.get(op))
    abslrp = rule_registry.get("abslrp").table
    assert {rule.kind for op, rule in abslrp.items() if rule.moves and op not in structural} == {"passes"}


def _of_torch(name: str) -> dict[Any, rule_registry.Rule]:
    """The rules for operations of torch itself, whatever else is imported."""
    return {op: rule for op, rule in rule_registry.get(name).table.items() if op.namespace == "aten"}


def test_one_of_several_inputs_may_receive_everything_where_a_rule_says_so() -> None:
    for name in ("abslrp", "epsilon"):
        picks = {str(op.overloadpacket) for op, rule in _of_torch(name).items() if rule.picks}
        assert picks == {
            *("aten.maximum", "aten.minimum", "aten.index_put", "aten.scatter_add", "aten.index_add"),
            *("aten.scatter_reduce", "aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d"),
            *("aten.atan2", "aten.copysign", "aten.fmod", "aten.pow", "aten.remainder"),
        }, name


def test_a_quotient_has_opposed_inputs() -> None:
    opposed = {op for op, rule in rule_registry.get("abslrp").table.items() if rule.opposed}
    assert opposed == {aten.div.Tensor, aten.div.Scalar}


def test_declarations_stay_with_bound_and_derived_rules() -> None:
    rule_registry.define("mine", "…", parameters={"delta": 3.0})
    rule_registry.register("mine", aten.relu.default, moves=True, picks=True, opposed=True)(scaled)
    bound = rule_registry.get("mine").table[aten.relu.default]
    assert (bound.moves, bound.picks, bound.opposed) == (True, True, True)
    assert bound.function is not scaled, "it is bound"
    derived = rule_registry.get("abslrp").derive({select(path="a"): bound, aten.gelu.default: doubled})
    rules = dict(derived.own).values()
    assert [rule.moves for rule in rules] == [True, False]
    permute = rule_registry.get("structural").table[aten.permute.default]
    (again,) = dict(rule_registry.get("abslrp").derive({aten.permute.default: permute}).own).values()
    assert again.moves


def test_a_rule_that_is_registered_keeps_what_it_declares_itself() -> None:
    rule_registry.define("mine", "…", moves=True)
    rule_registry.register("mine", aten.relu.default, rule=Rule("mine", doubled, picks=True), overwrites=True)
    rule = rule_registry.get("mine").table[aten.relu.default]
    assert (rule.picks, rule.overwrites, rule.moves, rule.opposed) == (True, True, True, False)


# Operations of rule sets


def test_operations_are_those_with_an_entry_of_their_own() -> None:
    rules = rule_registry.get("z-box")
    assert rules.operations() == set(rules.table)
    assert aten.digamma.default not in rules.operations()
    derived = rules.derive(
        {aten.digamma.default: passes, select(op=aten.erfinv.default, path="a"): passes, select(path="b"): passes},
        default=passes,
    )
    assert derived.operations() == {*rules.table, aten.digamma.default, aten.erfinv.default}
    rule_registry.register("z-box", select(op=aten.digamma.default, layer="first"), rule=passes)
    assert aten.digamma.default in rule_registry.get("z-box").operations()


# Layers and what folds into them

LAYERS: dict[str, tuple[Any, ...]] = {
    # operation, input, weight, arguments
    "linear": (aten.linear.default, (5, 4), (6, 4), {}),
    "1d": (aten.conv1d.default, (2, 4, 7), (6, 4, 3), {"stride": [2]}),
    "2d, groups": (aten.conv2d.default, (2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": [1, 1]}),
    "2d, padded in words": (aten.conv2d.padding, (2, 4, 5, 5), (6, 4, 3, 3), {"padding": "same"}),
    "3d": (aten.conv3d.default, (2, 2, 3, 3, 3), (6, 2, 2, 2, 2), {}),
    "transposed": (aten.conv_transpose2d.input, (2, 4, 3, 3), (4, 6, 2, 2), {"stride": [2, 2]}),
    "transposed, groups": (aten.conv_transpose2d.input, (2, 4, 3, 3), (4, 3, 2, 2), {"groups": 2}),
}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_a_batch_norm_folds_into_the_layer_before(case: tuple[Any, ...], biased: bool, affine: bool) -> None:
    op, shape, weight, rest = case
    x, w = torch.randn(*shape, dtype=torch.float64), torch.randn(*weight, dtype=torch.float64)
    bias, mean, gain, shift = torch.randn(4, 6, dtype=torch.float64)
    arguments = {"weight": w, "bias": bias if biased else None, **rest}
    variance = torch.rand(6, dtype=torch.float64) + 0.5
    norm = {"running_mean": mean, "running_var": variance, "eps": 1e-3}
    norm |= {"weight": gain, "bias": shift} if affine else {"weight": None, "bias": None}
    fold = rule_registry.get("epsilon").table[aten._native_batch_norm_legit_no_training.default].fold
    assert fold is not None
    folded_weight, folded_bias = fold_into(op, arguments, fold(norm))
    both = op(x, **{**arguments, "weight": folded_weight, "bias": folded_bias})
    torch.testing.assert_close(both, F.batch_norm(op(x, **arguments), **norm))
    layer = layer_arguments(op)
    assert layer is not None
    assert both.shape[layer.output_axis] == 6


def test_nothing_folds_into_what_has_no_output_channels() -> None:
    with pytest.raises(NotImplementedError, match=r"folds into aten\.mm\.default"):
        fold_into(aten.mm.default, {}, None)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match=r"folds into aten\.relu\.default"):
        fold_into(aten.relu.default, {}, None)  # type: ignore[arg-type]


def test_weights_of_operations() -> None:
    assert weights_of(aten.conv2d.padding) == weights_of(aten.linear.default) == ("weight",)
    assert weights_of(aten.matmul.default) == ("self", "other")
    assert weights_of(aten.addmm.default) == ("mat1", "mat2")
    assert weights_of(aten.relu.default) == ()


def test_operations_of_ones_own_are_declared_as_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_layers", dict(layers._layers))
    with pytest.raises(ValueError, match=r"aten\.prelu\.default has no argument slope; it has: self, weight"):
        rule_registry.declare_layer(aten.prelu.default, LayerArguments(("slope",), bias=None))
    with pytest.raises(ValueError, match="on axis 0 or 1 of its weight, not 2"):
        rule_registry.declare_layer(aten.prelu.default, LayerArguments(bias=None, weight_axis=2))
    assert layer_arguments(aten.prelu.default) is None
    rule_registry.declare_layer(aten.prelu.default, LayerArguments(bias=None))
    assert weights_of(aten.prelu.default) == ("weight",)
    with pytest.raises(ValueError, match=r"aten\.prelu\.default is declared as a layer already"):
        rule_registry.declare_layer(aten.prelu.default, LayerArguments(bias=None))


# The page about all this


def test_the_page_runs_from_top_to_bottom_and_its_rule_is_the_formula() -> None:
    page = (ROOT / "rule_registry" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    scope: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"rule_registry/README.md, block {number}", "exec"), scope)
    a, b = torch.randn(2, 2, 3, dtype=torch.float64)
    compare_with_formula(aten.lerp.Scalar, a, b, 0.25, active=["self", "end"])
    for item in Path(rule_registry.__file__).parent.iterdir():
        if item.suffix == ".py" or (item / "__init__.py").exists():
            listed = f"`{item.name}{'' if item.suffix else '/'}`"
            assert listed in page or item.stem == "__init__", f"{listed} is in no row of the page"
