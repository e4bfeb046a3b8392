"""Capture: the traps of torch.export, the origin of every operation, and what each failure says."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from relprop import CaptureError, MissingRuleError
from tests.helpers import models
from tests.helpers.capturing import operations
from tests.helpers.models import CLASSES, Lambda, distance, gradient, make, pictures, seeded

aten = torch.ops.aten


@pytest.mark.full
def test_evaluation_batch_norm_keeps_its_tuple_inside() -> None:
    plan = relprop.Explainer(make("convolutional")).plan(pictures(1))
    ops = [site.op for site in plan.sites.values()]
    assert aten._native_batch_norm_legit_no_training.default in ops
    assert relprop.explain(make("convolutional"), pictures(2)).relevance.abs().sum() > 0


def test_inert_operations_leave_the_map_alone() -> None:
    layer = nn.Linear(8, CLASSES)
    bare = seeded(lambda: Lambda(lambda m, x: m.head(x), head=layer))
    dressed = Lambda(
        lambda m, x: m.head(m.drop(x.clone().contiguous().detach().to(x.dtype)) * 1.0),
        head=layer,
        drop=nn.Dropout(),
    ).eval()
    x = torch.randn(3, 8)
    torch.testing.assert_close(relprop.explain(dressed, x).relevance, relprop.explain(bare, x).relevance)


def test_constants_made_in_the_forward_are_no_activations() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], dtype=x.dtype) / 10
        like = torch.zeros_like(x[0]) + x.new_ones(x.shape[1])
        table = m.table[torch.arange(8).flip(0)]
        return m.head(x * table + positions + like)

    model = seeded(lambda: Lambda(forward, head=nn.Linear(8, CLASSES), table=nn.Parameter(torch.randn(8))))
    model, x = model.double(), torch.randn(3, 8, dtype=torch.float64)
    assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
    assert operations(model, x) == {aten.mul.Tensor, aten.add.Tensor, aten.linear.default}


class TestRefusals:
    def test_training_mode(self) -> None:
        with pytest.raises(CaptureError, match=r"training mode.*call model.eval\(\) first"):
            relprop.explain(models.Plain(), pictures(2))

    def test_one_module_in_training_mode_is_named(self) -> None:
        model = make("plain")
        model.head[1].train()
        with pytest.raises(CaptureError, match=r"'head\.1'"):
            relprop.explain(model, pictures(2))

    def test_branch_on_values(self) -> None:
        model = Lambda(lambda m, x: m.head(x if x.sum() > 0 else -x), head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match=r"could not trace Lambda.*\n.*a branch on values"):
            relprop.explain(model, torch.randn(2, 8))

    def test_no_tensor_comes_out(self) -> None:
        model = Lambda(lambda m, x: None).eval()
        with pytest.raises(CaptureError, match=r"returns a NoneType, not a tensor.*no tensors at all"):
            relprop.explain(model, torch.randn(2, 8))

    def test_several_tensors_come_out(self) -> None:
        model = Lambda(lambda m, x: {"features": x, "logits": m.head(x)}, head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match=r"returns a dict.*output=.*features \(2, 8\), logits \(2, 3\)"):
            relprop.explain(model, torch.randn(2, 8))
        with pytest.raises(CaptureError, match="no output 'scores'; there are: features"):
            relprop.explain(model, torch.randn(2, 8), output="scores")

    def test_random_numbers(self) -> None:
        model = Lambda(lambda m, x: m.head(F.dropout(x, 0.5, True)), head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match="random numbers"):
            relprop.explain(model, torch.randn(2, 8))

    def test_roundings_are_those_of_the_least_precise_activation(self) -> None:
        def rounded(m: Any, x: Tensor) -> Tensor:
            noise = 1 + 1e-7 * torch.rand(x.shape[1:])  # in the place of two orders of one sum
            return m.head((x.to(m.inside) * noise).double())

        model = Lambda(rounded, head=nn.Linear(8, 3), inside=torch.float32).eval().double()
        x = torch.randn(2, 8).double()
        assert relprop.explain(model, x).conservation.error <= 1e-6
        model.inside = torch.float64
        with pytest.raises(CaptureError, match="random numbers"):
            relprop.explain(model, x)

    def test_script_module(self) -> None:
        with warnings.catch_warnings(action="ignore"):
            scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 3)).eval())
        with pytest.raises(CaptureError, match=r"TorchScript.*pass the nn.Module it was made from"):
            relprop.explain(scripted, torch.randn(2, 8))

    @pytest.mark.sweep(every=4)
    @pytest.mark.parametrize(
        "forward",
        [
            lambda m, x: m.head(x - x.mean(0)),
            lambda m, x: m.head(x - x.mean(0, keepdim=True)),
            lambda m, x: m.head(x @ x.T @ x),
            lambda m, x: m.head(x.softmax(0)),
        ],
        ids=["mean", "mean-keepdim", "gram", "softmax"],
    )
    def test_samples_that_are_mixed(self, forward: Any) -> None:
        model = Lambda(forward, head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match=r"mixe[sd]"):
            relprop.explain(model, torch.randn(3, 8))

    @pytest.mark.parametrize("forward", [lambda m, x: m.head(x.flip(0)), lambda m, x: m.head(x.roll(1, 0))])
    def test_samples_that_change_places(self, forward: Any) -> None:
        model = Lambda(forward, head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match=r"perturbing one sample changed another's"):
            relprop.explain(model, torch.randn(3, 8))


class TestOrigins:
    def test_path_class_and_line_of_every_operation(self) -> None:
        plan = relprop.Explainer(make("transformer")).plan(pictures(2))
        by_name = {node.name: plan.graph.origins[node] for node in plan.sites}
        assert by_name["blocks_1_qkv"].path == "blocks.1.qkv"
        assert by_name["blocks_1_qkv"].module_type.endswith("Linear")
        for origin in by_name.values():
            file, line, _ = origin.line.split(":", 2)
            assert file.endswith("models.py")
            assert int(line) > 0

    def test_missing_rules_are_all_listed(self) -> None:
        def forward(m: Any, x: Tensor) -> Tensor:
            return m.head(m.inner(torch.logcumsumexp(x, 1)))

        inner = Lambda(lambda m, x: torch.i0(x).logcumsumexp(1))
        model = Lambda(forward, inner=inner, head=nn.Linear(8, 3)).eval()
        with pytest.raises(MissingRuleError) as caught:
            relprop.explain(model, torch.randn(2, 8))
        text = str(caught.value)
        assert "3 operations (aten.i0.default, aten.logcumsumexp.default)" in text
        assert text.count("aten.logcumsumexp.default in ") == 2
        assert "in the model (Lambda)" in text
        assert "in inner (Lambda)" in text
        assert text.count("test_capture.py:") + text.count("models.py:") == 3
        assert '@rule_registry.register("abslrp", torch.ops.aten.i0.default)' in text
        assert "derive(" in text


def test_registering_the_rule_that_the_error_asks_for() -> None:
    model = Lambda(lambda m, x: m.head(torch.i0(x)), head=nn.Linear(8, 3)).eval()
    rules = rule_registry.get("abslrp").derive({aten.i0.default: rule_registry.passes})
    assert relprop.explain(model, torch.randn(2, 8), rules=rules).conservation.error <= 1e-5
