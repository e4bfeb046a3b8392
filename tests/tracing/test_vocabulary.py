"""Which composite operations stay whole in a graph follows from the rule set in use, and from nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop.tracing.inputs import check_inputs
from tests.helpers.models import Lambda, distance, seeded

aten = torch.ops.aten
WHOLE = aten.einsum.default
"""An operation that torch composes of others, and for which no rule set has a rule."""

pytestmark = pytest.mark.usefixtures("own_registry")


def model() -> nn.Module:
    return seeded(
        lambda: Lambda(
            lambda m, x: m.head(torch.einsum("bi,ij->bj", m.stem(x), m.matrix)),
            stem=nn.Linear(6, 5),
            matrix=nn.Parameter(torch.randn(5, 4)),
            head=nn.Linear(4, 3),
        )
    )


def operations(net: nn.Module, x: Tensor, rules: str | rule_registry.RuleSet) -> set[str]:
    return {str(site.op) for site in relprop.Explainer(net, rules=rules).plan(x).sites.values()}


def give(call: rule_registry.Call, relevance: Tensor) -> Tensor:
    """Hand everything to the activation, in equal parts."""
    return relevance.mean(-1, keepdim=True).expand(*relevance.shape[:-1], call.input.shape[-1])


def test_a_rule_registered_after_a_first_explanation_holds() -> None:
    net, x = model(), torch.randn(2, 6)
    before = relprop.explain(net, x).relevance
    assert str(WHOLE) not in operations(net, x, "abslrp")
    rule_registry.register("abslrp", WHOLE)(give)
    assert str(WHOLE) in operations(net, x, "abslrp")
    assert distance(relprop.explain(net, x).relevance, before) > 1e-3


@pytest.mark.full
def test_a_rule_of_another_set_changes_nothing() -> None:
    net, x = model(), torch.randn(2, 6)
    rule_registry.define("mine", "absLRP with a rule for a whole einsum", base="abslrp")
    rule_registry.register("mine", WHOLE)(give)
    assert str(WHOLE) in operations(net, x, "mine")
    assert str(WHOLE) not in operations(net, x, "abslrp")
    assert relprop.explain(net, x).relevance.isfinite().all()


@pytest.mark.parametrize("where", [WHOLE, rule_registry.select(op=WHOLE)], ids=["operation", "selector"])
def test_a_derived_rule_holds(where: object) -> None:
    net, x = model(), torch.randn(2, 6)
    rules = rule_registry.get("abslrp").derive({where: give})  # type: ignore[dict-item]
    assert str(WHOLE) in operations(net, x, rules)


def test_rule_sets_of_the_same_operations_share_a_capture() -> None:
    net, x = model(), torch.randn(2, 6)
    graphs = {id(relprop.Explainer(net, rules=name).plan(x).graph) for name in ("abslrp", "epsilon", "gradient")}
    assert len(graphs) == 1


def test_the_oracle_runs_on_the_graph_of_the_rules() -> None:
    net, x = model(), torch.randn(2, 6)
    rules = rule_registry.get("abslrp").derive({WHOLE: give})
    assert relprop.gradient_oracle_error(net, x, rules=rules) < 1e-12
    from relprop.verification.oracle import _gradient_on_the_graph_of

    assert str(WHOLE) in operations(net, x, _gradient_on_the_graph_of(rules))


@pytest.mark.full
def test_capture_names_the_rule_set_that_it_is_for() -> None:
    net, x = model(), torch.randn(2, 6)
    rules = rule_registry.get("abslrp").derive({WHOLE: give})
    kept = {graph: {str(node.target) for node in graph.calls()} for graph in (relprop.capture(net, (x,), rules=rules),)}
    assert all(str(WHOLE) in found for found in kept.values())
    assert relprop.capture(net, (x,)) is relprop.Explainer(net).prepare(check_inputs(x, None)).plan.graph
