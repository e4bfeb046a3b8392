"""A target is any scalar of the output; the judge is autograd's derivative of that scalar, written out here again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from relprop.errors import CaptureError, TargetError
from tests.helpers.models import CLASSES, Lambda, distance, kept, pictures, seeded

MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[2:6, 1:5] = True


@dataclass
class Record:
    logits: Tensor
    name: str = "no tensor"


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


def segmenter() -> nn.Module:
    def forward(m: Any, x: Tensor) -> dict[str, Tensor]:
        features = m.body(x)
        return {"out": m.head(features), "aux": features}

    return Lambda(forward, body=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()), head=nn.Conv2d(6, 4, 1))


def classifier(packed: Callable[[Tensor, Tensor], Any] = lambda logits, features: logits) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        features = m.body(x)
        return packed(m.head(features), features)

    return Lambda(
        forward,
        body=nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(216, 8)),
        head=nn.Linear(8, CLASSES),
    )


def tower() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))


def towers() -> nn.Module:
    return Lambda(lambda m, a, b: {"left": m.left(a), "right": m.right(b)}, left=tower(), right=tower())


CONSTANT = torch.randn(1, 5, generator=torch.Generator().manual_seed(7))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """By hand, apart from what torch calls it."""
    return (a * b).sum(1) / (a.pow(2).sum(1) * b.pow(2).sum(1)).sqrt()


class Case(NamedTuple):
    """A model, what `relprop.explain` is told, and the scalar that is meant, of the model's whole output."""

    build: Callable[[], nn.Module]
    options: dict[str, Any]
    scalar: Callable[[Any], Tensor]
    inputs: int = 1


CASES = {
    "one class": Case(classifier, {"target": 3}, lambda o: o[:, 3]),
    "a class for each": Case(classifier, {"target": [1, 4, 0]}, lambda o: torch.stack([o[0, 1], o[1, 4], o[2, 0]])),
    "difference": Case(classifier, {"target": lambda o: o[:, 2] - o[:, 4]}, lambda o: o[:, 2] - o[:, 4]),
    "margin": Case(
        classifier,
        {"target": lambda o: F.softplus(o[:, 2] - o.mean(1))},
        lambda o: (1 + (o[:, 2] - o.sum(1) / CLASSES).exp()).log(),
    ),
    "class of a map inside a mask": Case(
        segmenter,
        {"output": "out", "target": lambda logits: (logits[:, 2] * MASK).sum((1, 2))},
        lambda o: o["out"][:, 2][:, MASK].sum(1),
    ),
    "class of a map where it is predicted": Case(
        segmenter,
        {"target": lambda o: (o["out"][:, 1] * (o["out"].argmax(1) == 1)).sum((1, 2))},
        lambda o: torch.stack([m[1][m.argmax(0) == 1].sum() for m in o["out"]]),
    ),
    "similarity to a constant": Case(
        tower,
        {"target": lambda e: F.cosine_similarity(e, CONSTANT.to(e.dtype))},  # else torch takes its norm in float32
        lambda e: cosine(e, CONSTANT.to(e.dtype)),
    ),
    "similarity of two inputs": Case(
        towers,
        {"target": lambda o: F.cosine_similarity(o["left"], o["right"])},
        lambda o: cosine(o["left"], o["right"]),
        inputs=2,
    ),
    "product of two inputs": Case(
        towers,
        {"target": lambda o: (o["left"] * o["right"]).sum(1)},
        lambda o: torch.einsum("bi,bi->b", o["left"], o["right"]),
        inputs=2,
    ),
    "dataclass, by name": Case(
        lambda: classifier(lambda logits, features: Record(logits)),
        {"output": "logits", "target": 2},
        lambda o: o.logits[:, 2],
    ),
    "dataclass, as a whole": Case(
        lambda: classifier(lambda logits, features: Record(logits)),
        {"target": lambda o: o.logits[:, 2]},
        lambda o: o.logits[:, 2],
    ),
    "named tuple, part of a part": Case(
        lambda: classifier(Pair),
        {"output": "features", "target": lambda features: features.square().sum(1)},
        lambda o: o.features.pow(2).sum(1),
    ),
}


@pytest.mark.sweep(every=12)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_any_scalar_of_the_output(case: Case) -> None:
    model = seeded(case.build).double()
    inputs = [pictures(3, seed=k).double().requires_grad_() for k in range(case.inputs)]
    expected = torch.autograd.grad(case.scalar(model(*inputs)).sum(), inputs)
    inputs = [x.detach() for x in inputs]
    found = relprop.explain(model, inputs, rules="gradient", **case.options)
    for value, wanted in zip(found.relevances.values(), expected, strict=True):
        assert distance(value, wanted) <= 1e-9
    assert relprop.gradient_oracle_error(model, inputs, **case.options) <= 1e-9

    e = relprop.explain(model, inputs, contrast=None, **case.options)
    assert e.conservation.error <= 1e-9
    mass = torch.stack([value.flatten(1).sum(1) for value in e.relevances.values()]).sum(0)
    lost = torch.stack([cut.lost[0] for cut in e.conservation.cuts]).sum(0)
    torch.testing.assert_close(mass + lost, torch.ones_like(mass))
    assert all(value.abs().sum() > 0 for value in e.relevances.values())
    if callable(case.options["target"]):
        torch.testing.assert_close(e.output, case.scalar(model(*inputs)))
        assert e.target is None


def test_a_mask_for_each_picture_is_an_input() -> None:
    inner = seeded(segmenter).double()
    model = Lambda(lambda m, x, mask: (m.inner(x)["out"][:, 2] * mask).sum((1, 2)), inner=inner).eval()
    x, masks = pictures(3).double(), torch.rand(3, 8, 8) > 0.5
    leaf = x.clone().requires_grad_()
    score = torch.stack([o[2][mask].sum() for o, mask in zip(inner(leaf)["out"], masks, strict=True)])
    (expected,) = torch.autograd.grad(score.sum(), leaf)
    found = relprop.explain(model, (x, masks), rules="gradient", target=lambda score: score)
    assert distance(found.relevance, expected) <= 1e-9


def test_tensors_of_a_target_are_looked_at_anew() -> None:
    model, x = kept("plain"), pictures(2)
    weights = torch.tensor([1.0, 0, 0, 0, 0])

    def target(output: Tensor) -> Tensor:
        return (output * weights).sum(1)

    explainer = relprop.Explainer(model, rules="gradient")
    first = explainer(x, target).relevance
    assert distance(first, explainer(x, 0).relevance) <= 1e-6
    weights = torch.tensor([0, 0, 0, 1.0, 0])  # another tensor under the same name
    assert distance(explainer(x, target).relevance, explainer(x, 3).relevance) <= 1e-6
    weights.copy_(torch.tensor([0, 1.0, 0, 0, 0]))  # the same tensor with other values
    assert distance(explainer(x, target).relevance, explainer(x, 1).relevance) <= 1e-6


class Chosen:
    def __init__(self, held: list[int]) -> None:
        self.held = held

    def __call__(self, output: Tensor) -> Tensor:
        return output[:, self.held].sum(1)

    def method(self, output: Tensor) -> Tensor:
        return self(output)


def by_default(held: list[int]) -> Callable[[Tensor], Tensor]:
    def target(output: Tensor, *, held: list[int] = held) -> Tensor:
        return output[:, held].sum(1)

    return target


REFERRING: dict[str, Callable[[list[int]], Callable[[Tensor], Tensor]]] = {
    "list": lambda held: lambda output: output[:, held].sum(1),
    "dict": lambda held: (lambda settings: lambda output: output[:, settings["class"]].sum(1))({"class": held}),
    "object": lambda held: (lambda settings: lambda output: output[:, settings.held].sum(1))(Chosen(held)),
    "function": lambda held: (lambda inner: lambda output: inner(output))(lambda output: output[:, held].sum(1)),
    "default": by_default,
    "callable object": Chosen,
    "method": lambda held: Chosen(held).method,
    "partial": lambda held: partial(lambda output, held: output[:, held].sum(1), held=held),
    "module": lambda held: Lambda(lambda m, output: output[:, m.held].sum(1), held=held).eval(),
}


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize("refer", REFERRING.values(), ids=REFERRING)
def test_what_a_target_refers_to_may_change(refer: Callable[[list[int]], Callable[[Tensor], Tensor]]) -> None:
    model, x, held = seeded(lambda: Lambda(lambda m, x: m.head(x), head=nn.Linear(8, 5))), torch.randn(2, 8), [1]
    explainer, target = relprop.Explainer(model, rules="gradient"), refer(held)
    graph = relprop.capture(model, (x,), target=target)
    torch.testing.assert_close(explainer(x, target).relevance[0], model.head.weight[1])
    assert relprop.capture(model, (x,), target=target) is graph
    held[0] = 3
    torch.testing.assert_close(explainer(x, target).relevance[0], model.head.weight[3])


OFFSET = 1


@pytest.mark.full
def test_a_global_that_only_an_inner_function_reads_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def target(output: Tensor) -> Tensor:
        return sum(output[:, k + OFFSET] for k in (0, 2))

    model = seeded(lambda: Lambda(lambda m, x: m.head(x), head=nn.Linear(8, 5)))
    explainer, x = relprop.Explainer(model, rules="gradient"), torch.randn(2, 8)
    for offset in (1, 2):
        monkeypatch.setitem(globals(), "OFFSET", offset)
        expected = model.head.weight[offset] + model.head.weight[offset + 2]
        torch.testing.assert_close(explainer(x, target).relevance[0], expected)


class TestCheck:
    def test_of_a_scalar(self) -> None:
        options = CASES["class of a map inside a mask"].options
        report = relprop.check(seeded(segmenter), pictures(2), **options)
        assert report.ok, str(report)
        assert report.oracle_error <= 1e-12
        assert report.oracle_dtype == torch.float64
        assert report.stability is not None
        assert report.operations[("aten.sum.dim_IntList", "average")] == 1

    def test_of_a_class(self) -> None:
        report = relprop.check(kept("plain"), pictures(2), target=[4, 1])
        assert report.ok, str(report)

    def test_finds_what_the_target_hides(self) -> None:
        def hidden(output: Tensor) -> Tensor:
            with torch.no_grad():
                weight = output.softmax(1)
            return (output * weight).sum(1)

        model = kept("plain")
        assert relprop.gradient_oracle_error(model, pictures(2), target=hidden) > 1e-3
        report = relprop.check(model, pictures(2), target=hidden)
        assert not report.ok
        assert "no_grad" in str(report)

    def test_a_target_that_insists_on_its_precision_is_compared_there(self) -> None:
        weights = torch.randn(CLASSES)
        report = relprop.check(kept("plain"), pictures(2), target=lambda output: output @ weights)
        assert report.oracle_dtype == torch.float32
        assert report.ok, str(report)

    @pytest.mark.full
    def test_noise_goes_to_every_source_and_nowhere_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y, mask, steps = pictures(2), torch.randn(2, 7), torch.ones(7), torch.arange(2)
        calls, explained = [], relprop.Explainer.__call__

        def record(explainer: relprop.Explainer, x: Any, target: Any = None, kwargs: Any = None) -> relprop.Explanation:
            calls.append((x, kwargs))
            return explained(explainer, x, target, kwargs)

        def forward(m: Any, x: Tensor, *, y: Tensor, mask: Tensor, steps: Tensor) -> Tensor:
            return m.one(x.flatten(1)) + m.other(y * mask) + steps[:, None]

        monkeypatch.setattr(relprop.Explainer, "__call__", record)
        model = seeded(lambda: Lambda(forward, one=nn.Linear(192, CLASSES), other=nn.Linear(7, CLASSES)))
        relprop.check(model, x, kwargs={"y": y, "mask": mask, "steps": steps})
        in_single = [inputs for inputs, _ in calls if inputs.kwargs["y"].dtype == y.dtype]
        (inputs,) = [inputs for inputs in in_single if inputs.kwargs["y"] is not y]
        (noisy,), kwargs = inputs.args, inputs.kwargs
        assert 0 < (noisy - x).abs().max() < 1e-2
        assert 0 < (kwargs["y"] - y).abs().max() < 1e-2
        assert kwargs["mask"] is mask
        assert kwargs["steps"] is steps


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            (lambda o: o["out"].sum(), "one number per sample, .*not a single number"),
            (lambda o: o, "one number per sample, .*not a dict"),
            (lambda o: o["out"][:, 0], r"one number per sample, \(B,\), not \(B, 8, 8\)"),
            (lambda o: o["map"], r"the target fails on .* a dict of out \(2, 4, 8, 8\), aux .*KeyError: 'map'"),
            (lambda o: (o["out"][:, 0] * torch.ones(3, 8, 8)).sum((1, 2)), "must be an input of the model"),
            (lambda o: (o["out"] - o["out"].mean(0)).sum((1, 2, 3)), "samples of a batch are mixed"),
        ],
    )
    def test_no_number_per_sample(self, target: Any, reason: str) -> None:
        with pytest.raises(relprop.RelpropError, match=reason):
            relprop.explain(kept_segmenter, pictures(3), target=target)

    def test_a_mask_for_each_of_two_pictures(self) -> None:
        masks = torch.ones(2, 8, 8)
        with pytest.raises(CaptureError, match="What the target needs for each sample must be an input of the model"):
            relprop.explain(kept_segmenter, pictures(2), target=lambda o: (o["out"][:, 0] * masks).sum((1, 2)))

    def test_an_output_that_is_not_there(self) -> None:
        with pytest.raises(CaptureError, match=r"no output 'logits'; there are: out \(2, 4, 8, 8\), aux"):
            relprop.explain(kept_segmenter, pictures(2), output="logits", target=lambda o: o.sum((1, 2, 3)))

    def test_a_target_is_given_the_output_that_is_named(self) -> None:
        with pytest.raises(TargetError, match=r"the target fails on the model's output, a Tensor of \(2, 4, 8, 8\)"):
            relprop.explain(kept_segmenter, pictures(2), output="out", target=lambda o: o["out"])

    def test_a_dataclass_needs_a_name(self) -> None:
        model = seeded(lambda: classifier(lambda logits, features: Record(logits)))
        with pytest.raises(CaptureError, match=r"returns a Record.*output=.*There are: logits \(2, 5\)"):
            relprop.explain(model, pictures(2))


kept_segmenter = seeded(segmenter)
