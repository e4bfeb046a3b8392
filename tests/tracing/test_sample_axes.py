"""Other inputs may have as many rows as there are samples: those hold the samples that the model treats so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import CaptureError, InputError, RelpropError
from tests.helpers.models import CLASSES, Lambda, distance, seeded

ADJACENCY = (torch.rand(7, 7, generator=torch.Generator().manual_seed(1)) > 0.5).double() + torch.eye(7).double()


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _embedded(m: Any, x: Tensor, classes: Tensor) -> Tensor:
    """Pictures beside embeddings of the class names."""
    return m.body(x.flatten(1)) @ classes.T


def _normalised(m: Any, pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Three channels, and three pictures at times."""
    return m.body(((pixels - mean[:, None, None]) / std[:, None, None]).flatten(1))


def _on_a_graph(m: Any, nodes: Tensor, adjacency: Tensor) -> Tensor:
    """Seven nodes of two features in every sample."""
    return m.body((adjacency @ nodes).relu().flatten(1))


FORWARDS = {"class embeddings": _embedded, "mean and std": _normalised, "adjacency": _on_a_graph}
WIDTHS = {"class embeddings": (12, 6), "mean and std": (12, CLASSES), "adjacency": (14, CLASSES)}
SHAPES = {"class embeddings": (3, 2, 2), "mean and std": (3, 2, 2), "adjacency": (7, 2)}
OTHERS = {
    "class embeddings": (_random(4, 6, seed=3),),
    "mean and std": (_random(3), _random(3, seed=4).abs() + 1),
    "adjacency": (ADJACENCY,),
}


def _model(kind: str) -> nn.Module:
    return seeded(lambda: Lambda(FORWARDS[kind], body=nn.Linear(*WIDTHS[kind]))).double()


def _gradient(model: nn.Module, x: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(leaf, *others).max(1).values.sum(), leaf)
    return found


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("kind", FORWARDS)
def test_as_many_rows_by_chance(kind: str) -> None:
    """The batch in question comes first, then another, then it again."""
    model, others = _model(kind), OTHERS[kind]
    count = len(others[0])
    explainer = relprop.Explainer(model, rules="gradient")
    before = [tensor.clone() for tensor in others]
    for samples in (count, 2, count):
        x = _random(samples, *SHAPES[kind], seed=7)
        e = explainer((x, *others))
        assert list(e.relevances) == ["x"]
        assert distance(e.relevance, _gradient(model, x, others)) <= 1e-9
    assert all(torch.equal(a, b) for a, b in zip(before, others, strict=True))
    x = _random(count, *SHAPES[kind], seed=8)
    assert relprop.explain(model, (x, *others), batch_size=2).conservation.error <= 1e-9


def test_check_goes_by_the_same() -> None:
    report = relprop.check(_model("class embeddings"), (_random(4, 3, 2, 2), *OTHERS["class embeddings"]))
    assert report.oracle_error is not None
    assert report.oracle_error <= 1e-9


def test_a_rest_of_as_many_samples() -> None:
    """As the last batch of a data set may be: the graph of the batches before serves."""
    others = OTHERS["mean and std"]
    explainer = relprop.Explainer(_model("mean and std"), rules="gradient")
    graph = explainer.plan((_random(5, 3, 2, 2), *others)).graph
    assert explainer.plan((_random(3, 3, 2, 2), *others)).graph is graph


class Preparing(nn.Module):
    """Its arguments have names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, CLASSES)

    def forward(self, pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return _normalised(self, pixels, mean, std)


class TableFirst(nn.Module):
    """What holds no samples comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 6)

    def forward(self, table: Tensor, x: Tensor) -> Tensor:
        return self.body(x.flatten(1)) @ table.T


class TestNamed:
    def test_what_comes_first_holds_no_samples(self) -> None:
        model = seeded(TableFirst).double()
        table, x = _random(4, 6), _random(3, 3, 2, 2)
        e = relprop.explain(model, (table, x), rules="gradient", batched=["x"])
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(model(table, leaf).max(1).values.sum(), leaf)
        assert list(e.relevances) == ["x"]
        assert distance(e.relevances["x"], expected) <= 1e-9

    def test_names_of_arguments(self) -> None:
        model, others = seeded(Preparing).double(), OTHERS["mean and std"]
        x = _random(3, 3, 2, 2)
        expected = _gradient(model, x, others)
        for batched in (("pixels",), ["x"]):
            e = relprop.explain(model, (x, *others), rules="gradient", batched=batched)
            assert distance(e.relevance, expected) <= 1e-9
        graph = relprop.capture(model, (x, *others), batched=("pixels",))
        assert [node.name for node in graph.inputs] == ["x", "mean", "std"]

    def test_what_is_no_name(self) -> None:
        model, given = seeded(Preparing).double(), (_random(4, 3, 2, 2), *OTHERS["mean and std"])
        with pytest.raises(InputError, match="no input is named 'maen'; near names: mean; there are: x, mean, std"):
            relprop.explain(model, given, batched=("maen",))
        with pytest.raises(InputError, match=r"unlike numbers of rows: x \(4,\), std \(3,\)"):
            relprop.explain(model, given, batched=("x", "std"))
        with pytest.raises(TypeError, match="batched must be a sequence of names"):
            relprop.explain(model, given, batched="x")


class TestWhatCanNotBe:
    def test_a_picture_without_a_batch_axis(self) -> None:
        after = (nn.Flatten(), nn.Linear(144, CLASSES))
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *after).eval()
        normed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *after).eval()
        pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(-3), nn.Linear(4, 2)).eval()
        x = torch.randn(3, 8, 8)
        for model in (plain, normed, pooled):
            with pytest.raises(RelpropError, match=r"with a batch axis in front: pass x\[None\]") as caught:
                relprop.explain(model, x)
            assert isinstance(caught.value, InputError | CaptureError)
            assert relprop.explain(model, x[None]).relevance.shape == (1, 3, 8, 8)

    def test_nodes_are_no_samples(self) -> None:
        """The nodes of one graph, given with its edges."""

        def forward(m: Any, nodes: Tensor, edges: Tensor) -> Tensor:
            gathered = torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]])
            return m.body(gathered.relu())

        model = seeded(lambda: Lambda(forward, body=nn.Linear(4, CLASSES))).double()
        edges = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
        with pytest.raises(RelpropError, match=r"a guess that the samples lie along the first axis of x, .*5 rows"):
            relprop.explain(model, (_random(5, 4), edges))

    def test_mixed_samples_name_the_guess(self) -> None:
        def forward(m: Any, x: Tensor, scale: Tensor) -> Tensor:
            return m.body(x - x.mean(0) * scale.sum())

        model = seeded(lambda: Lambda(forward, body=nn.Linear(4, CLASSES))).double()
        message = r"(?s)mix.*a guess that the samples lie along the first axis of x.*with batched=\('x',\)"
        with pytest.raises(CaptureError, match=message):
            relprop.explain(model, (_random(5, 4), _random(3)))
