"""Class scores: where the evidence for a class is asked, whatever the sign of its score."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from tests.helpers.models import Lambda

SCORES: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], list[int]]] = {
    # from hidden features to the output, and the evidence at each layer but the first, in order
    "head": (lambda m, h: m.a(h), [1]),
    "log-softmax": (lambda m, h: m.a(h).log_softmax(1), [1]),
    "sigmoid": (lambda m, h: m.a(h).sigmoid(), [1]),
    "averaged heads": (lambda m, h: (m.a(h) + m.b(h)) / 2, [1, 1]),
    "negative scalar": (lambda m, h: m.a(h) * -2.0, [-1]),
    "divided by a negative scalar": (lambda m, h: m.a(h) / -2.0, [-1]),
    "negation": (lambda m, h: -m.a(h), [-1]),
    "negation of a negation": (lambda m, h: (-m.a(h)).neg(), [1]),
    "difference": (lambda m, h: m.a(h) - m.b(h), [1, -1]),
    "constant minus": (lambda m, h: 1 - m.a(h), [-1]),
    "subtracted sum": (lambda m, h: torch.add(m.a(h), m.b(h), alpha=-0.5), [1, -1]),
    "mean of positions": (lambda m, h: m.a(h.unflatten(1, (2, 4)).repeat(1, 1, 2)).mean(1), [1]),
    "of both signs": (lambda m, h: m.a(h) - m.a(h).flip(1), [1, -1]),
    "less its own mean": (lambda m, h: (lambda z: z - z.mean(1, keepdim=True))(m.a(h)), [0]),
    "gate of two activations": (lambda m, h: m.a(h) * m.b(h).sigmoid(), [0, 0]),
    "layer behind a layer": (lambda m, h: m.c(m.a(h)), [0, 1]),
    "cosine with a scale": (lambda m, h: 10 * F.linear(F.normalize(h), F.normalize(m.a.weight)), [1]),
}


def model(function: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    members = {"first": nn.Linear(6, 8), "a": nn.Linear(8, 5), "b": nn.Linear(8, 5), "c": nn.Linear(5, 4)}
    return Lambda(lambda m, x: function(m, m.first(x).tanh()), **members).double().eval()


@pytest.mark.sweep(every=17)
@pytest.mark.parametrize("case", SCORES.values(), ids=SCORES.keys())
def test_evidence_at_the_last_layers(case: tuple[Callable[[nn.Module, Tensor], Tensor], list[int]]) -> None:
    function, expected = case
    x = torch.randn(2, 6, dtype=torch.float64)
    plan = relprop.Explainer(model(function)).plan(x)
    found = [site.evidence for site in plan.sites.values() if site.op == torch.ops.aten.linear.default]
    assert found == [0, *expected]


def test_evidence_against_is_the_evidence_for_the_negated_score() -> None:
    """A head under a negation explains as the head with negated weights does, negative scores or not."""
    x = torch.randn(3, 6, dtype=torch.float64)
    under = model(lambda m, h: -m.a(h))
    plain = model(lambda m, h: m.a(h))
    with torch.no_grad():
        plain.a.weight.neg_()
        plain.a.bias.neg_()
    for target in range(5):
        found, expected = (relprop.explain(m, x, target=target, contrast=None).relevance for m in (under, plain))
        torch.testing.assert_close(found, expected)


def test_the_evidence_for_a_class_with_a_negative_score() -> None:
    """By hand: what speaks for the class has relevance, not what makes its score so negative."""
    head = nn.Linear(3, 2, bias=False).double().eval()
    head.weight.data.copy_(torch.tensor([[1.0, -5.0, -1.0], [0.0, 1.0, 0.0]]))
    x = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64).repeat(2, 1)
    found = relprop.explain(head, x, target=0, contrast=None).relevance
    torch.testing.assert_close(found[0], torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64))
    letter = rule_registry.get("abslrp", signed=False)
    assert torch.equal(found, relprop.explain(head, x, target=0, contrast=None, rules=letter).relevance)


def test_a_target_that_subtracts_scores_of_one_layer_is_the_score_of_a_combined_one() -> None:
    x = torch.randn(2, 6, dtype=torch.float64)
    explainer = relprop.Explainer(model(lambda m, h: m.a(h)))
    plan = explainer.plan(x, target=lambda output: output[:, 3] - output[:, 1])
    (folded,) = [
        node for node, site in plan.sites.items() if site.path == "a" and site.op == torch.ops.aten.linear.default
    ]
    assert plan.sites[folded].evidence == 1
    assert folded.meta["val"].shape[1] == 1
    plan = explainer.plan(x, target=lambda output: output[:, 1:3].mean(1))
    (folded,) = [
        node for node, site in plan.sites.items() if site.path == "a" and site.op == torch.ops.aten.linear.default
    ]
    assert plan.sites[folded].evidence == 1
