"""One capture serves every batch size and every value of the parameters, and no other structure."""

from __future__ import annotations

import importlib
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import relprop
from tests.helpers.models import CLASSES, KINDS, Lambda, distance, gradient, make, pictures

tracing = importlib.import_module("relprop.tracing.trace")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with every real capture."""
    made: list[Any] = []
    original = tracing.export

    def counted(*args: Any) -> Any:
        made.append(args)
        return original(*args)

    monkeypatch.setattr(tracing, "export", counted)
    return made


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize("kind", KINDS)
def test_one_capture_serves_every_batch_size_and_matches_autograd(kind: str, captures: list[Any]) -> None:
    model, inputs = make(kind).double(), KINDS[kind][1]
    explainer = relprop.Explainer(model, rules="gradient")
    for batch in (1, 2, 3):
        x = inputs(batch).double()
        found = explainer(x)
        torch.testing.assert_close(found.output, model(x))
        assert distance(found.relevance, gradient(model, x)) <= 1e-9
    assert len(captures) == 1


class TestCache:
    def test_second_call_captures_nothing(self, captures: list[Any]) -> None:
        model = make("plain")
        for batch in (3, 1, 2):
            relprop.explain(model, pictures(batch))
        relprop.explain(model, pictures(2), target=1, rules="gradient")
        assert len(captures) == 1

    @pytest.mark.full
    def test_another_picture_size_is_another_capture(self, captures: list[Any]) -> None:
        model = make("convolutional")
        relprop.explain(model, pictures(2, 8))
        relprop.explain(model, pictures(2, 12))
        relprop.explain(model, pictures(2, 8))
        assert len(captures) == 2

    @pytest.mark.sweep(every=2)
    @pytest.mark.parametrize("data", [False, True], ids=["in-place", "through-data"])
    def test_changed_values_take_effect_without_a_new_capture(self, data: bool, captures: list[Any]) -> None:
        model, x = make("convolutional").double(), pictures(2).double()
        before = relprop.explain(model, x, rules="gradient")
        with torch.no_grad():
            for parameter in model.parameters():
                (parameter.data if data else parameter).mul_(1.3)
            model.stem[1].running_var.mul_(0.5)
        after = relprop.explain(model, x, rules="gradient")
        assert len(captures) == 1
        assert distance(after.relevance, before.relevance) > 1e-2
        assert distance(after.relevance, gradient(model, x)) <= 1e-9
        relprop.explain(model, x, rules="abslrp")
        torch.testing.assert_close(relprop.explain(model, x).output, model(x))

    def test_changed_tensor_attribute_takes_effect(self) -> None:
        model = Lambda(lambda m, x: m.head(x * m.table), head=nn.Linear(8, 3), table=torch.ones(8)).eval()
        x = torch.randn(2, 8)
        relprop.explain(model, x)
        model.table.mul_(2.0)
        torch.testing.assert_close(relprop.explain(model, x).output, model(x).detach())

    @pytest.mark.sweep(every=5)
    @pytest.mark.parametrize(
        ("held", "used"),
        [
            (lambda t: [t], lambda held, x: x * held[0]),
            (lambda t: {"a": (t,)}, lambda held, x: x * held["a"][0]),
            (lambda t: SimpleNamespace(t=t), lambda held, x: x * held.t),
            (lambda t: [nn.Parameter(t)], lambda held, x: x * held[0]),
            (lambda t: (Lambda(lambda m, x: x * m.weight, weight=nn.Parameter(t)),), lambda held, x: held[0](x)),
        ],
        ids=["list", "dict", "object", "parameter in a list", "layer in a tuple"],
    )
    def test_changed_tensors_inside_an_attribute_take_effect(self, held: Any, used: Any, captures: list[Any]) -> None:
        table = torch.ones(8)
        model = Lambda(lambda m, x: m.head(used(m.held, x)), head=nn.Linear(8, 3), held=held(table)).eval()
        x = torch.randn(2, 8)
        relprop.explain(model, x)
        table.mul_(3.0)
        torch.testing.assert_close(relprop.explain(model, x).output, model(x).detach())
        assert len(captures) == 1

    @pytest.mark.sweep(every=5)
    @pytest.mark.parametrize(
        "change",
        [
            lambda m: setattr(m.head, "weight", nn.Parameter(torch.randn(CLASSES, 8))),
            lambda m: setattr(m, "act", nn.GELU()),
            lambda m: setattr(m.act, "negative_slope", 0.5),
            lambda m: setattr(m, "factor", -2.0),
            lambda m: m.head.register_forward_hook(lambda module, args, output: output * output),
        ],
        ids=["parameter", "module", "setting", "attribute", "hook"],
    )
    def test_changed_structure_is_captured_anew(self, change: Any, captures: list[Any]) -> None:
        model = Lambda(
            lambda m, x: m.head(m.act(x)) * m.factor, head=nn.Linear(8, CLASSES), act=nn.LeakyReLU(), factor=1.0
        )
        model, x = model.eval(), torch.randn(2, 8)
        relprop.explain(model, x)
        change(model)
        torch.testing.assert_close(relprop.explain(model.eval(), x).output, model(x).detach())
        assert len(captures) == 2

    def test_old_weight_norm_follows_its_parameters(self) -> None:
        with warnings.catch_warnings(action="ignore"):
            model = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 3))).eval()
            x = torch.randn(2, 8)
            relprop.explain(model, x)
            with torch.no_grad():
                model[0].weight_g.mul_(3)
            e = relprop.explain(model, x)
        torch.testing.assert_close(e.output, model(x).detach())

    @pytest.mark.full
    def test_parametrized_weights(self) -> None:
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))).eval().double()
        x = torch.randn(2, 8, dtype=torch.float64)
        assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
