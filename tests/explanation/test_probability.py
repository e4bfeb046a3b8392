"""The probability in a title is the one that the model's last operation, or its user, says; worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from relprop.errors import TargetError
from relprop.explanation.display import default_titles
from tests.helpers.models import Lambda

LOGITS = torch.tensor([[3.0, -1.0, 0.5], [0.25, 0.25, 0.5]], dtype=torch.float64)
SIGMOIDS = [[1 / (1 + exp(-value)) for value in row] for row in LOGITS.tolist()]
SOFTMAXES = [[exp(value) / sum(map(exp, row)) for value in row] for row in LOGITS.tolist()]


def ending(function: Callable[[Tensor], Tensor], outputs: int = 3) -> nn.Module:
    """Return a model whose scores are its inputs, the first of them alone if it has one output."""
    weight = nn.Parameter(torch.eye(3, dtype=torch.float64)[:outputs])
    return Lambda(lambda m, x: function(F.linear(x, m.weight)), weight=weight).eval()


CASES: dict[str, tuple[Callable[[Tensor], Tensor], list[list[float]]]] = {
    "scores": (lambda z: z, SOFTMAXES),  # the second row sums to one, which proves nothing
    "sigmoid": (torch.sigmoid, SIGMOIDS),
    "sigmoid, cast": (lambda z: nn.Sigmoid()(z).float().squeeze(-1), SIGMOIDS),
    "mean of two sigmoids": (lambda z: torch.stack([z.sigmoid(), z.sigmoid()]).mean(0), SIGMOIDS),
    "logarithm of a sigmoid": (F.logsigmoid, SIGMOIDS),
    "softmax": (lambda z: z.softmax(1), SOFTMAXES),
    "logarithm of a softmax": (lambda z: z.log_softmax(-1), SOFTMAXES),
}


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("name", CASES)
def test_the_graph_tells_the_probability(name: str) -> None:
    function, expected = CASES[name]
    e = relprop.explain(ending(function), LOGITS, target=[0, 2], rules="gradient", contrast=None)
    torch.testing.assert_close(e.probabilities, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(e.probability, torch.tensor([expected[0][0], expected[1][2]]), rtol=1e-5, atol=1e-6)


def test_the_user_tells_it_otherwise() -> None:
    model = ending(lambda z: z)
    for link, expected in {"sigmoid": SIGMOIDS, "softmax": SOFTMAXES, "output": LOGITS.tolist()}.items():
        e = relprop.explain(model, LOGITS, target=0, rules="gradient", contrast=None, probability=link)  # type: ignore[arg-type]
        torch.testing.assert_close(e.probabilities, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match='must be "softmax", "sigmoid", "output" or None, not \'logit\''):
        relprop.explain(model, LOGITS, probability="logit")  # type: ignore[arg-type]


ONE: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any], float, list[str]]] = {
    "a logit, or what else": (
        lambda z: z,
        {},
        nan,
        ["output 0: what makes it larger, output 3", "output 0: what makes it larger, output -1"],
    ),
    "a probability": (
        torch.sigmoid,
        {},
        SIGMOIDS[0][0],
        ["output 0: yes 95.3%", "output 0: yes 26.9% (predicted: no 73.1%)"],
    ),
    "a logit, as its user knows": (
        lambda z: z,
        {"probability": "sigmoid"},
        SIGMOIDS[0][0],
        ["output 0: yes 95.3%", "output 0: yes 26.9% (predicted: no 73.1%)"],
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_a_title_says_which_answer_of_one_output_is_explained(name: str) -> None:
    function, options, probability, titles = ONE[name]
    x = torch.tensor([[3.0, 1.0, 1.0], [-1.0, 1.0, 1.0]], dtype=torch.float64)
    e = relprop.explain(ending(function, 1), x, target=0, rules="gradient", **options)
    torch.testing.assert_close(e.probability[0], torch.tensor(probability), equal_nan=True, rtol=1e-5, atol=1e-6)
    assert default_titles(e) == titles


def test_a_multi_hot_target_says_what_to_write() -> None:
    model = ending(torch.sigmoid)
    words = r"lambda output: output\[:, \[0, 2\]\]\.sum\(1\)"
    rows = torch.tensor([[1, 0, 1], [1, 0, 1]])
    for target in (rows, rows.bool(), rows.float(), rows.tolist(), rows[0].float(), rows[0].bool()):
        with pytest.raises(TargetError, match=words):
            relprop.explain(model, LOGITS, target=target)
    advised = relprop.explain(model, LOGITS, target=lambda output: output[:, [0, 2]].sum(1), rules="gradient")
    leaf = LOGITS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, [0, 2]].sum(), leaf)
    torch.testing.assert_close(advised.relevance, expected)
