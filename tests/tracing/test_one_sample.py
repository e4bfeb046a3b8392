"""Models that have no graph of every batch: the graph of one sample, and when it is none of the model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from tests.helpers.models import distance, seeded


class Scores(nn.Module):
    """A small network, whose samples somebody else puts together."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = forward
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.layers, x)


def in_a_loop(layers: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([layers(picture[None]) for picture in x])


def only_one(layers: nn.Module, x: Tensor) -> Tensor:
    scores: Tensor = layers(x.view(1, 3, 8, 8))
    return scores


def made(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return seeded(lambda: Scores(forward)).double().eval()


@pytest.mark.parametrize(("forward", "samples"), [(in_a_loop, 3), (in_a_loop, 1), (only_one, 1)])
@pytest.mark.parametrize("rules", ["abslrp", "epsilon-plus-residual"])
def test_one_at_a_time_is_what_all_at_once_would_be(
    forward: Callable[[Any, Tensor], Tensor], samples: int, rules: str
) -> None:
    x = torch.rand(samples, 3, 8, 8).double()
    at_once = made(lambda layers, x: layers(x))
    expected = relprop.explain(at_once, x, rules=rules, layers=["layers.2"], batch_size=1)
    found = relprop.explain(made(forward), x, rules=rules, layers=["layers.2"], batch_size="auto")
    assert distance(found.relevance, expected.relevance) <= 1e-9
    assert distance(found.layers["layers.2"], expected.layers["layers.2"]) <= 1e-9
    assert torch.equal(found.target, expected.target)
    assert relprop.check(made(forward), x, rules=rules).ok


def test_another_batch_is_explained_by_the_same_graph() -> None:
    explainer = relprop.Explainer(made(in_a_loop))
    x = torch.rand(4, 3, 8, 8).double()
    graph = explainer.plan(x[:2]).graph
    assert graph.alone
    assert explainer.plan(x).graph is graph
    assert distance(explainer(x).relevance[2:], explainer(x[2:]).relevance) <= 1e-9


def mixing(layers: Any, x: Tensor) -> Tensor:
    return in_a_loop(layers, x - x.mean(0))


def counting(layers: Any, x: Tensor) -> Tensor:
    return in_a_loop(layers, x) * (2.0 if len(x) > 4 else 1.0)


def listing(layers: Any, x: Tensor) -> Tensor:
    return torch.stack([torch.tensor(row.tolist(), dtype=x.dtype) + row for row in in_a_loop(layers, x)])


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("forward", [mixing, counting, listing])
def test_what_depends_on_others_or_leaves_its_tensors_is_refused(
    forward: Callable[[Any, Tensor], Tensor], samples: int
) -> None:
    with pytest.raises(relprop.CaptureError, match="could not trace Scores"):
        relprop.explain(made(forward), torch.rand(samples, 3, 8, 8).double())


def test_a_difference_of_scores_needs_linear_rules() -> None:
    x = torch.rand(2, 3, 8, 8).double()

    def difference(scores: Tensor) -> Tensor:
        return scores[:, 1] - scores[:, 2]

    with pytest.raises(relprop.TargetError, match="needs linear rules"):
        relprop.explain(made(in_a_loop), x, target=difference)
    at_once = relprop.explain(made(lambda layers, x: layers(x)), x, target=difference, rules="epsilon-plus")
    found = relprop.explain(made(in_a_loop), x, target=difference, rules="epsilon-plus")
    assert distance(found.relevance, at_once.relevance) <= 1e-9
