"""A target that combines outputs is explained as the model whose last layer is combined: that model is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from relprop.errors import TargetError
from tests.helpers.models import CLASSES, Lambda, distance, pictures, seeded

WEIGHTS = torch.tensor([0.5, -1.5, 0.0, 2.0, -0.25], dtype=torch.float64)


def body() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.GELU()))


def combined(head: nn.Module, weights: Tensor, shift: float = 0.0) -> nn.Module:
    """Return a head of one output, with the weights of another combined by hand."""
    result: Any
    if isinstance(head, nn.Conv2d):
        result = nn.Conv2d(head.in_channels, 1, head.kernel_size)  # type: ignore[arg-type]
    else:
        result = nn.Linear(head.in_features, 1)  # type: ignore[arg-type]
    result.double()
    result.weight.data = torch.tensordot(weights[None], head.weight.data, 1)
    result.bias.data = (weights * head.bias.data).sum()[None] + shift
    return result.eval()


def flat(m: Any, x: Tensor) -> Tensor:
    return m.body(x).flatten(1)


ENDINGS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], list[nn.Module]]]] = {
    "linear": (lambda m, x: m.a(flat(m, x)), lambda: [nn.Linear(32, CLASSES)]),
    "product and sum": (lambda m, x: flat(m, x) @ m.a.weight.T + m.a.bias, lambda: [nn.Linear(32, CLASSES)]),
    "convolution, then its average": (lambda m, x: m.a(m.body(x)).mean((2, 3)), lambda: [nn.Conv2d(8, CLASSES, 1)]),
    "convolution of an average": (
        lambda m, x: m.a(F.adaptive_avg_pool2d(m.body(x), 1)).flatten(1),
        lambda: [nn.Conv2d(8, CLASSES, 1)],
    ),
    "two heads, averaged": (
        lambda m, x: (m.a(flat(m, x)) + m.b(flat(m, x).square())) / 2,
        lambda: [nn.Linear(32, CLASSES), nn.Linear(32, CLASSES)],
    ),
}
ONE, OTHER = F.one_hot(torch.tensor([0, 1]), CLASSES).double()
TARGETS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, float]] = {
    "negated": (lambda o: -o[:, 0], -ONE, 0.0),
    "difference": (lambda o: o[:, 0] - o[:, 1], ONE - OTHER, 0.0),
    "weighed": (lambda o: 2 * o[:, 1] - 0.5 * o[:, 0], 2 * OTHER - 0.5 * ONE, 0.0),
    "mean": (lambda o: o.mean(1), torch.full((CLASSES,), 1 / CLASSES).double(), 0.0),
    "product with a vector": (lambda o: o @ WEIGHTS, WEIGHTS, 0.0),
    "by an index": (lambda o: (o[:, [0, 0]] - o[:, 1:2]).sum(1), 2 * ONE - 2 * OTHER, 0.0),
    "from the mean, and a constant": (lambda o: 3 - (o[:, 0] - o.mean(1)), 0.2 - ONE, 3.0),
    "under activations": (lambda o: F.softplus(o[:, 0] - o[:, 1]).log(), ONE - OTHER, 0.0),
    "what is left of a probability": (lambda o: 1 - o[:, 0].sigmoid(), -ONE, 0.0),
    "of a loss": (lambda o: -F.logsigmoid(o[:, 1]), -OTHER, 0.0),
}
SHORT = [
    ("linear", "difference"),
    ("linear", "product with a vector"),
    ("linear", "from the mean, and a constant"),
    ("linear", "what is left of a probability"),
    ("product and sum", "weighed"),
    ("convolution, then its average", "difference"),
    ("convolution of an average", "mean"),
    ("two heads, averaged", "difference"),
]
SHARED = "from the mean, and a constant"  # which of two heads has the constant is no question of the weights
LONG = [
    (ending, name)
    for ending in ENDINGS
    for name in TARGETS
    if (ending, name) not in SHORT and (ending, name) != ("two heads, averaged", SHARED)
]


@cache
def built(ending: str) -> tuple[nn.Module, Callable[[Tensor, float], nn.Module]]:
    """Return a model, and what makes the one whose last layers are combined."""
    forward, heads = ENDINGS[ending]
    made, trunk = _heads(heads), body().double().eval()
    model = Lambda(forward, body=trunk, **dict(zip("ab", made, strict=False))).eval()

    def one_output(weights: Tensor, shift: float) -> nn.Module:
        both = [
            combined(head, weights, shift) for head in made
        ]  # of two, each carries the shift, and they are averaged
        return Lambda(forward, body=trunk, **dict(zip("ab", both, strict=False))).eval()

    return model, one_output


def _heads(heads: Callable[[], list[nn.Module]]) -> list[nn.Module]:
    return list(seeded(lambda: nn.ModuleList(heads())).double().eval())  # type: ignore[arg-type]


def compare(ending: str, target: str) -> None:
    model, one_output = built(ending)
    x = pictures(3, seed=1).double()
    function, weights, shift = TARGETS[target]
    found = relprop.explain(model, x, target=function)
    expected = relprop.explain(one_output(weights, shift), x, target=0)
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.output, function(model(x)))
    assert found.conservation.error <= 1e-9
    # Where nothing speaks for the combination there is nothing to hand on: that is counted as lost.
    lost = torch.stack([cut.lost[0] for cut in found.conservation.cuts]).sum(0)
    torch.testing.assert_close(found.relevance.flatten(1).sum(1) + lost, torch.ones(3).double())


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize(("ending", "target"), SHORT)
def test_a_combination_is_the_model_with_a_combined_layer(ending: str, target: str) -> None:
    compare(ending, target)


@pytest.mark.full
@pytest.mark.parametrize(("ending", "target"), LONG)
def test_combinations_on_other_endings(ending: str, target: str) -> None:
    compare(ending, target)


@pytest.mark.full
@pytest.mark.parametrize("name", ["abslrp-paper", "abslrp-released", "the letter"])
def test_other_rule_sets_of_positive_contributions(name: str) -> None:
    model, one_output = built("linear")
    rules = rule_registry.get("abslrp", signed=False, delta=0.0) if name == "the letter" else name
    x = pictures(3, seed=1).double()
    for target in ("negated", "difference", "mean"):
        function, weights, shift = TARGETS[target]
        found = relprop.explain(model, x, target=function, rules=rules)
        expected = relprop.explain(one_output(weights, shift), x, target=0, rules=rules, contrast=None)
        assert distance(found.relevance, expected.relevance) <= 1e-9


@pytest.mark.full
def test_weights_that_change_count_at_the_next_call() -> None:
    model, one_output = built("linear")
    model = copy.deepcopy(model)
    x, weights = pictures(3, seed=1).double(), ONE - OTHER

    def target(o: Tensor) -> Tensor:
        return o @ weights

    explainer = relprop.Explainer(model)
    first = explainer(x, target).relevance
    assert distance(first, relprop.explain(one_output(weights, 0.0), x, target=0).relevance) <= 1e-9
    model.a.weight.data[0] = 3 * model.a.weight.data[2]  # type: ignore[index, operator, union-attr]
    head = combined(model.a, weights)  # type: ignore[arg-type]
    changed = Lambda(lambda m, x: m.a(m.body(x).flatten(1)), body=model.body, a=head).eval()
    second = explainer(x, target).relevance
    assert distance(second, first) > 0.1
    assert distance(second, relprop.explain(changed, x, target=0).relevance) <= 1e-9


def test_linear_rules_see_the_target_as_it_is() -> None:
    model, _ = built("linear")
    x = pictures(2, seed=1).double()
    for function in (TARGETS["difference"][0], lambda o: o.softmax(1)[:, 0] - o.softmax(1)[:, 1]):
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(model(leaf)).sum(), leaf)
        assert distance(relprop.explain(model, x, target=function, rules="gradient").relevance, expected) <= 1e-9


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "difference of probabilities": (lambda o: o.softmax(1)[:, 0] - o.softmax(1)[:, 1], "something is subtracted in"),
    "difference of two sigmoids": (lambda o: o[:, 0].sigmoid() - o[:, 1].sigmoid(), "something is subtracted in"),
    "negated sum of probabilities": (lambda o: -(o.softmax(1)[:, :2].sum(1)), "something is subtracted in"),
    "negated norm": (lambda o: -o.square().sum(1), "something is subtracted in"),
    "probabilities with weights": (lambda o: o.softmax(1) @ WEIGHTS, "a constant of both signs multiplies in"),
}


@pytest.mark.full
def test_what_would_be_left_out_is_refused_in_words() -> None:
    model, _ = built("linear")
    x = pictures(2, seed=1).double()
    for function, words in REFUSED.values():
        with pytest.raises(TargetError, match=f"under rule set 'abslrp': {words} .*rules=\"epsilon-plus-flat\""):
            relprop.explain(model, x, target=function)


@pytest.mark.full
def test_positive_sums_are_explained_as_before() -> None:
    """Smooth maxima and sums of probabilities have no sign to lose; where scores are the source nothing is folded."""
    model, _ = built("linear")
    x = pictures(2, seed=1).double()
    for function in (lambda o: o[:, 2:4].logsumexp(1), lambda o: o.softmax(1)[:, :2].sum(1)):
        e = relprop.explain(model, x, target=function)
        torch.testing.assert_close(e.relevance.flatten(1).sum(1), torch.ones(2).double())
    e = relprop.explain(model, x, target=lambda o: 2 * o[:, 0] - o[:, 1], at="a")
    assert e.relevance.shape == (2, CLASSES)
    terms = (torch.tensor([2.0, -1, 0, 0, 0]).double() * e.output.new_tensor(model(x).tolist())).clamp(min=0)
    torch.testing.assert_close(e.relevance, terms / terms.sum(1, keepdim=True))
