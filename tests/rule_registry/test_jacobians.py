"""The general rule for operations without one, and operations of one's own under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop import CaptureError, MissingRuleError, RuleError
from rule_registry import BatchAxis, RuleSet, positive_contribution, select
from rule_registry.gradient import jacobians
from tests.helpers.matrix_form import (
    SEEDS,
    apply_rule,
    bind,
    contributions,
    formula,
    function_of,
    inputs_of,
    samples,
    slots,
)
from tests.helpers.models import Lambda, kept, make, pictures, seeded

aten = torch.ops.aten
DELTA = 0.3
FRONT = BatchAxis(0)


def general(**parameters: float) -> RuleSet:
    """The fallback for everything: no operation has a rule of its own."""
    rules = rule_registry.get("abslrp", **parameters)
    return replace(rules, table={}, overrides=()).derive(default=positive_contribution)


def signed(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES: dict[str, tuple[Any, Sequence[Any], dict[str, Any]]] = {
    "pointwise": (aten.i0.default, (signed(3, 4, 5),), {}),
    "pointwise-of-two": (aten.atan2.default, (signed(3, 4, 5), signed(3, 1, 5, seed=1)), {"active": ["self", "other"]}),
    "pointwise-with-a-constant": (aten.atan2.default, (signed(3, 1, 5), signed(4, 5, seed=1)), {}),
    "rows-depend": (aten.softmax.int, (signed(3, 4, 5), -1), {}),
    "fewer-outputs": (aten.logsumexp.default, (signed(3, 4, 5), [1]), {}),
    "product": (aten.prod.dim_int, (signed(3, 4, 5), 2), {}),
    "convolution": (aten.conv2d.default, (signed(3, 2, 5, 5), signed(4, 2, 3, 3, seed=1), signed(4, seed=2)), {}),
    "bilinear": (aten.matmul.default, (signed(3, 4, 5), signed(3, 5, 2, seed=1)), {"active": ["self", "other"]}),
    "distances": (
        aten._cdist_forward.default,
        (signed(3, 4, 5), signed(3, 6, 5, seed=1), 2.0, None),
        {"active": ["x1", "x2"]},
    ),
    "merged-axis": (
        aten.softmax.int,
        (signed(12, 4), -1),
        {"input_batch": [BatchAxis(0, 2, 2)], "output_batch": BatchAxis(0, 2, 2)},
    ),
    "axis-moves": (
        aten.linalg_matrix_exp.default,
        (signed(3, 4, 4).mul(0.5),),
        {},
    ),
}


def compared(
    op: Any,
    args: Sequence[Any],
    active: Sequence[str] | None = None,
    input_batch: Sequence[BatchAxis] | None = None,
    output_batch: BatchAxis = FRONT,
) -> None:
    """Assert that the rule is the formula, evaluated with autograd's Jacobian."""
    arguments = bind(op, args, {})
    where = slots(active or [op._schema.arguments[0].name])
    inputs, z = inputs_of(arguments, where), op(*args)
    batches = input_batch or [FRONT] * len(inputs)
    relevance = torch.rand(SEEDS, *z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    applied = apply_rule(
        op,
        args,
        {},
        where,
        relevance,
        rules=general(delta=DELTA),
        input_batch=batches,
        output_batch=output_batch,
    )
    expected, mass, every = formula(
        contributions(function_of(op, arguments, where), inputs),
        z.flatten(),
        relevance.flatten(1),
        DELTA,
        [samples(x.shape, mark) for x, mark in zip(inputs, batches, strict=True)],
        samples(z.shape, output_batch),
    )
    for value, wanted, x in zip(applied.values, expected, inputs, strict=True):
        torch.testing.assert_close(value, wanted.reshape(SEEDS, *x.shape), rtol=1e-9, atol=1e-11)
        assert wanted.any()
    assert applied.record is not None
    torch.testing.assert_close(applied.record[1], mass)
    torch.testing.assert_close(applied.record[2], every)


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_formula(name: str) -> None:
    op, args, options = CASES[name]
    compared(op, args, **options)


def test_it_is_the_formula_in_chunks_of_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobians, "AT_ONCE", 1)
    compared(*CASES["fewer-outputs"][:2])
    compared(*CASES["bilinear"][:2], active=["self", "other"])


def test_it_works_where_its_inputs_are_and_not_on_the_default_device() -> None:
    op, args, _ = CASES["fewer-outputs"]
    relevance = torch.rand(SEEDS, *op(*args).shape).double()
    expected = apply_rule(op, args, {}, slots(["self"]), relevance, rules=general()).values[0]
    with torch.device("meta"):
        found = apply_rule(op, args, {}, slots(["self"]), relevance, rules=general()).values[0]
    assert torch.equal(found, expected)


def test_pointwise_is_what_the_whole_jacobian_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way and the long way, at one operation."""
    op, args, _ = CASES["pointwise-of-two"]
    assert torch.Tag.pointwise in op.tags
    relevance, where = torch.rand(2, 3, 4, 5).double(), slots(["self", "other"])
    short = apply_rule(op, args, {}, where, relevance, rules=general()).values
    monkeypatch.setattr(torch.Tag, "pointwise", torch.Tag.data_dependent_output)
    long = apply_rule(op, args, {}, where, relevance, rules=general()).values
    for a, b in zip(short, long, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
def test_several_outputs(used: tuple[bool, bool]) -> None:
    """Each output has its own denominator; the mass of all is handed on together."""
    op, x = aten.var_mean.correction, signed(3, 4, 5)
    z = op(x, [2])
    relevance = [
        torch.rand(SEEDS, *part.shape).double() if there else None for part, there in zip(z, used, strict=True)
    ]
    applied = apply_rule(
        op, (x, [2]), {}, slots(["self"]), tuple(relevance), rules=general(delta=DELTA), output_batch=(FRONT, FRONT)
    )
    raw = torch.zeros(SEEDS, x.numel(), dtype=torch.float64)
    for k, arrived in enumerate(relevance):
        if arrived is not None:
            (parts,) = contributions(lambda x, k=k: op(x, [2])[k], [x])
            size = z[k].abs()
            weight = arrived / (size + DELTA * size.mean(1, keepdim=True))
            counted = parts * torch.where(z[k] < 0, -1.0, 1.0).flatten()[:, None]
            raw += weight.flatten(1) @ counted.clamp(min=0)
    raw = raw.reshape(SEEDS, *x.shape)
    arrived = sum(part.sum(2) for part in relevance if part is not None)
    torch.testing.assert_close(applied.values[0], raw * (arrived / raw.sum((2, 3)))[:, :, None, None])


def test_where_nothing_contributes_the_mass_is_lost() -> None:
    x, relevance = signed(3, 4), torch.rand(SEEDS, 3, 4).double()
    applied = apply_rule(aten.sign.default, (x,), {}, slots(["self"]), relevance, rules=general())
    assert not applied.values[0].any()
    torch.testing.assert_close(applied.lost, relevance.sum(2))


def test_masked_logits_stay_out() -> None:
    x = signed(2, 3, 4).masked_fill(torch.ones(3, 4).triu(1).bool(), float("-inf"))
    relevance = torch.rand(SEEDS, 2, 3, 4).double()
    for op, args in ((aten.softmax.int, (x, -1)), (aten.exp.default, (x,))):
        value = apply_rule(op, args, {}, slots(["self"]), relevance, rules=general()).values[0]
        assert value.isfinite().all()
        assert not value[:, x.isinf()].any()
        assert value.any()


def test_a_jacobian_that_is_too_large_is_an_error() -> None:
    x = torch.randn(1, 9000)
    with pytest.raises(RuleError, match=r"softmax\.int at 'path' has 9000 outputs and 9000 inputs .*pointwise"):
        apply_rule(aten.softmax.int, (x, -1), {}, slots(["self"]), x.abs().unsqueeze(0), rules=general())


@pytest.mark.parametrize(
    ("op", "args", "names"),
    [
        (aten.cdist.default, (signed(3, 4, 5), signed(3, 6, 5, seed=1)), ["x1", "x2"]),
        (aten._cdist_forward.default, (signed(3, 4, 5), signed(3, 6, 5, seed=1), 2.0, None), ["x1", "x2"]),
        (aten.as_strided_scatter.default, (signed(3, 8), signed(3, 4, seed=1), [3, 4], [8, 2]), ["self", "src"]),
    ],
    ids=["cdist", "cdist-forward", "as-strided-scatter"],
)
def test_derivatives_that_torch_gets_wrong_for_several_seeds(op: Any, args: Sequence[Any], names: list[str]) -> None:
    """`torch.func.vmap` over their backward returns other numbers; the rule set ``gradient`` must not."""
    arguments, where = bind(op, args, {}), slots(names)
    relevance = signed(SEEDS, *op(*args).shape, seed=2)
    applied = apply_rule(op, args, {}, where, relevance, rules="gradient", input_batch=[FRONT] * 2)
    jacobians = torch.autograd.functional.jacobian(
        function_of(op, arguments, where), tuple(inputs_of(arguments, where))
    )
    for value, jacobian in zip(applied.values, jacobians, strict=True):
        torch.testing.assert_close(value, torch.tensordot(relevance, jacobian, relevance.ndim - 1))


# Choosing it


def test_it_is_nowhere_unless_chosen() -> None:
    for name in rule_registry.names():
        rules = rule_registry.get(name)
        assert rules.default is None or rules.default.kind != "fallback"
        assert all(rule.kind != "fallback" for rule in rules.table.values())
    model = Lambda(lambda m, x: m.head(x.i0()), head=nn.Linear(6, 4)).eval()
    with pytest.raises(MissingRuleError, match=r"derive\(default=rule_registry\.positive_contribution\)"):
        relprop.explain(model, torch.randn(2, 6))


def test_other_rule_sets_do_not_advise_it() -> None:
    model = Lambda(lambda m, x: m.head(CUBE(x)), head=nn.Linear(6, 4)).eval()
    with pytest.raises(MissingRuleError) as error:
        relprop.explain(model, torch.randn(2, 6), rules="epsilon")
    assert "positive_contribution" not in str(error.value)


@pytest.mark.full
def test_plan_and_check_name_what_it_is_used_for() -> None:
    model = seeded(lambda: Lambda(lambda m, x: m.head(m.body(x).i0().i0()), body=nn.Linear(6, 8), head=nn.Linear(8, 4)))
    x = torch.randn(2, 6)
    rules = rule_registry.get("abslrp").derive(default=positive_contribution)
    plan = relprop.Explainer(model, rules=rules).plan(x)
    assert plan.why("i0") == "positive_contribution(delta=0.01, signed=True), the rule of anything else"
    assert plan.why("head") == "linear(delta=0.01, signed=True), from the table: aten.linear.default"
    report = relprop.check(model, x, rules=rules)
    assert report.notes == (
        "aten.i0.default has no rule of its own: 2 of them under the fallback positive_contribution",
    )
    assert report.notes[0] in str(report)
    assert report.operations["aten.i0.default", "positive_contribution"] == 2
    e = relprop.explain(model, x, rules=rules, contrast=None)
    assert e.conservation.error <= 1e-5
    assert not relprop.check(kept("plain"), pictures(2)).notes


def test_it_can_be_chosen_for_some_operations() -> None:
    rules = rule_registry.get("abslrp", delta=0.5).derive(
        {select(op=aten.relu.default, path="features.*"): positive_contribution}
    )
    plan = relprop.Explainer(kept("plain"), rules=rules).plan(pictures(2))
    assert plan.why("features_1").startswith("positive_contribution(delta=0.5, signed=True), from the override")


def test_a_default_replaces_and_keeps_the_parent() -> None:
    parent = rule_registry.get("abslrp")
    derived = parent.derive(default=rule_registry.passes)
    assert parent.default is None
    assert derived.default is rule_registry.passes
    assert derived.derive({}).default is rule_registry.passes
    with pytest.raises(TypeError, match="positive_contribution needs the parameter 'delta'; its rule set has"):
        rule_registry.get("epsilon").derive(default=positive_contribution)


def test_a_whole_network_under_it_is_conserved_and_close_to_its_own_rules() -> None:
    """ReLU, pooling and linear layers differ from the table in the rectifiers alone, which pass there."""
    model, x = make("plain").double(), pictures(2).double()
    passing = dict.fromkeys((aten.relu.default, aten.dropout.default), rule_registry.passes)
    structural = rule_registry.get("abslrp")
    moves = {op: rule for op, rule in structural.table.items() if op in rule_registry.get("gradient").table}
    rules = replace(structural, table={**moves, **passing}).derive(default=positive_contribution)
    found = relprop.explain(model, x, rules=rules, contrast=None)
    expected = relprop.explain(model, x, contrast=None)
    kinds = {str(rule) for rule in relprop.Explainer(model, rules=rules).plan(x).assigned.values()}
    assert "positive_contribution" in kinds
    assert "linear" not in kinds
    assert "convolution" not in kinds
    assert found.conservation.error <= 1e-9
    # Where max pooling is differentiated its contribution is the winner itself over its magnitude, not all that came.
    assert torch.nn.functional.cosine_similarity(found.relevance.flatten(1), expected.relevance.flatten(1)).min() > 0.8


@pytest.mark.parametrize("name", ["fallback", "gradient"])
def test_programs_that_differentiate_refuse_to_be_exported(name: str) -> None:
    model = seeded(lambda: Lambda(lambda m, x: m.head(m.body(x).i0()), body=nn.Linear(6, 8), head=nn.Linear(8, 4)))
    general = rule_registry.get("abslrp").derive(default=positive_contribution)
    program = relprop.Explainer(model, rules=general if name == "fallback" else name).program(torch.randn(2, 6))
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad(), pytest.raises(RuleError, match=r"can't be exported; those of abslrp"):
        torch.export.export(program, (torch.randn(3, 6),), dynamic_shapes=shapes, strict=False)


# Operations of one's own


def _library(name: str, forward: Callable[..., Any], backward: Callable[..., Any] | None, **options: Any) -> Any:
    op = torch.library.custom_op(
        f"relprop_tests::{name}", forward, mutates_args=(), schema="(Tensor x) -> Tensor", **options
    )
    op.register_fake(torch.empty_like)
    if backward is not None:
        op.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
    return getattr(torch.ops.relprop_tests, name).default


def _by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() ** 3)


def _cubic_backward(ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return 3 * grad * x**2


CUBE = _library("cube", _by_numpy, _cubic_backward)
TAGGED = _library("tagged_cube", _by_numpy, _cubic_backward, tags=torch.Tag.pointwise)
BLUNT = _library("blunt_cube", _by_numpy, None)


def model_with(op: Any) -> nn.Module:
    return seeded(lambda: Lambda(lambda m, x: m.head(op(m.body(x))), body=nn.Linear(6, 8), head=nn.Linear(8, 4)))


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("op", [CUBE, TAGGED], ids=["jacobian", "pointwise"])
def test_a_custom_operation_under_the_fallback(op: Any) -> None:
    """Every contribution of a cube is ``3 z``: relevance stays where it is, by the letter at positive outputs alone."""
    model, x = model_with(op), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(MissingRuleError, match=r"relprop_tests\.\w*cube\.default"):
        relprop.explain(model, x)
    signed_ = rule_registry.get("abslrp", delta=0.0).derive(default=positive_contribution)
    e = relprop.explain(model, x, rules=signed_, contrast=None, layers=["body"], hooks={(seen := Seen()).name: seen})
    torch.testing.assert_close(e.layers["body"], seen.relevance[0], rtol=1e-4, atol=1e-6)
    rules = rule_registry.get("abslrp", delta=0.0, signed=False).derive(default=positive_contribution)
    e = relprop.explain(model, x, rules=rules, contrast=None, layers=["body"], hooks={(seen := Seen()).name: seen})
    hidden, arrived = model.body(x), seen.relevance[0]
    raw = arrived * (hidden > 0)
    factor = torch.where(raw.sum(1) > 0, arrived.sum(1) / raw.sum(1), 0.0)
    torch.testing.assert_close(e.layers["body"], (raw * factor[:, None]).detach(), rtol=1e-4, atol=1e-6)
    assert e.layers["body"].any()
    assert relprop.gradient_oracle_error(model, x) <= 1e-9


class Seen:
    name = "*cube"

    def __call__(self, info: relprop.NodeInfo, relevance: Tensor) -> None:
        self.relevance = relevance


@pytest.mark.parametrize("op", [CUBE, BLUNT], ids=["differentiable", "not"])
def test_a_custom_operation_with_a_rule_of_its_own(op: Any) -> None:
    rules = rule_registry.get("abslrp").derive({op: rule_registry.passes})
    e = relprop.explain(
        model_with(op), torch.randn(3, 6), rules=rules, layers=["body"], hooks={(seen := Seen()).name: seen}
    )
    assert torch.equal(e.layers["body"], seen.relevance[0] - seen.relevance[1])


def test_a_custom_operation_without_a_derivative_has_no_fallback() -> None:
    rules = rule_registry.get("abslrp").derive(default=positive_contribution)
    for chosen in (rules, "gradient"):
        with pytest.raises(RuleError, match=r"refuses \S*blunt_cube\.default in .*register_autograd"):
            relprop.explain(model_with(BLUNT), torch.randn(3, 6), rules=chosen)


class Cube(torch.autograd.Function):
    """With a backward that is not the derivative of its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Cubed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(x)


def function_model() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(6, 8), Cubed(), nn.Linear(8, 4)))


@pytest.mark.full
def test_an_autograd_function_leaves_its_operations() -> None:
    model, x = function_model(), torch.randn(3, 6)
    plan = relprop.Explainer(model, rules="gradient").plan(x)
    assert [str(site.op) for site in plan.sites.values() if site.path == "1"] == [
        "aten.square.default",
        "aten.mul.Tensor",
    ]
    # The map is the derivative of the forward, not the backward that somebody wrote; check tells.
    hidden = model[0](x).detach()
    found = relprop.explain(model, x, rules="gradient", target=0).relevance
    expected = (3 * hidden**2 * model[2].weight[0]).detach() @ model[0].weight.detach()
    torch.testing.assert_close(found, expected)
    report = relprop.check(model, x)
    assert "the backward of an autograd.Function" in str(report.problems[0])


@pytest.mark.full
def test_an_autograd_function_can_be_given_a_rule_by_its_module() -> None:
    """All operations of the module pass relevance on: a product of a thing with itself hands it on twice by half."""

    def whole(call: Any, relevance: Tensor) -> Any:
        return [relevance / len(call.inputs)] * len(call.inputs)

    model, x = function_model(), torch.randn(3, 6)
    rules = rule_registry.get("abslrp").derive({select(path="1"): whole})
    e = relprop.explain(model, x, rules=rules, contrast=None, layers=["0", "1"])
    torch.testing.assert_close(e.layers["0"], e.layers["1"])
    fallen = rule_registry.get("abslrp").derive({select(path="1"): positive_contribution})
    e = relprop.explain(model, x, rules=fallen, contrast=None)
    assert e.conservation.error <= 1e-5


def test_an_autograd_function_as_a_custom_operation_stays_one_node() -> None:
    function = torch.library.custom_op(
        "relprop_tests::function", lambda x: Cube.apply(x), mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    function.register_fake(torch.empty_like)
    function.register_autograd(lambda ctx, grad: grad)
    op = torch.ops.relprop_tests.function.default
    rules = rule_registry.get("abslrp").derive({op: rule_registry.passes})
    model, x = model_with(op), torch.randn(3, 6)
    plan = relprop.Explainer(model, rules=rules).plan(x)
    assert [str(site.op) for site in plan.sites.values()].count("relprop_tests.function.default") == 1
    assert relprop.check(model, x, rules=rules).oracle_error <= 1e-9  # its own backward, too


def test_a_function_that_leaves_torch_is_an_error_in_words() -> None:
    class Outside(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return torch.from_numpy(x.detach().numpy() * 2)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * 2

    model = Lambda(lambda m, x: m.head(Outside.apply(x)), head=nn.Linear(6, 4)).eval()
    with pytest.raises(CaptureError, match="a call out of torch"):
        relprop.explain(model, torch.randn(2, 6))
