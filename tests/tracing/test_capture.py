"""Capture: the traps of torch.export, the batch axis, and what each failure says."""

from __future__ import annotations

import importlib
import math
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

import relprop
import rule_registry
from relprop import CaptureError, InputError, MissingRuleError
from relprop.graph.signs import nonnegative_nodes
from rule_registry import BatchAxis
from tests.helpers import models
from tests.helpers.models import CLASSES, KINDS, Lambda, distance, gradient, make, pictures, seeded, sequences

capturing = importlib.import_module("relprop.tracing.capture")
aten = torch.ops.aten


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with every real capture."""
    made: list[Any] = []
    original = capturing._capture

    def counted(*args: Any) -> Any:
        made.append(args)
        return original(*args)

    monkeypatch.setattr(capturing, "_capture", counted)
    return made


def exported(model: nn.Module, x: Tensor) -> ExportedProgram:
    return torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)


def operations(model: Any, x: Any, **settings: Any) -> set[Any]:
    return {site.op for site in relprop.Explainer(model, **settings).plan(x).sites.values()}


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


@pytest.mark.parametrize("kind", KINDS)
def test_sign_analysis_claims_nothing_untrue(kind: str) -> None:
    graph = relprop.capture(make(kind), (KINDS[kind][1](2),))
    claimed = nonnegative_nodes(graph)

    class Checked(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in names:
                values = value if isinstance(value, tuple | list) else [value]
                assert all(float(v.min()) >= 0 for v in values if v.is_floating_point()), n.name
            return value

    names = {node.name for node in claimed}
    with torch.no_grad():
        Checked(graph.module()).run(KINDS[kind][1](4))
    if kind in ("plain", "convolutional"):
        assert names


def test_clamp_with_a_negative_ceiling_is_negative() -> None:
    model = Lambda(lambda m, x: m.head(x.relu().clamp(max=-0.5)), head=nn.Linear(8, CLASSES)).eval()
    graph = relprop.capture(model, (torch.randn(2, 8),))
    assert {node.target for node in nonnegative_nodes(graph)} == {aten.relu.default}


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


class TestOutputs:
    def test_by_key_and_by_index(self) -> None:
        head = nn.Linear(8, 3)
        x = torch.randn(2, 8)
        expected = relprop.explain(Lambda(lambda m, x: m.head(x), head=head).eval(), x).relevance
        named = Lambda(lambda m, x: {"features": x, "logits": m.head(x)}, head=head).eval()
        listed = Lambda(lambda m, x: (x, m.head(x)), head=head).eval()
        assert torch.equal(relprop.explain(named, x, output="logits").relevance, expected)
        assert torch.equal(relprop.explain(listed, x, output=1).relevance, expected)

    def test_callable_target_is_captured(self) -> None:
        model, x = make("plain").double(), pictures(3).double()
        e = relprop.explain(model, x, target=lambda output: output[:, 3] - output[:, 1], rules="gradient")
        x.requires_grad_()
        output = model(x)
        (expected,) = torch.autograd.grad((output[:, 3] - output[:, 1]).sum(), x)
        assert e.target is None
        assert distance(e.relevance, expected) <= 1e-9

    def test_callable_target_of_a_dict(self) -> None:
        model = Lambda(lambda m, x: {"logits": m.head(x)}, head=nn.Linear(8, 3)).eval()
        e = relprop.explain(model, torch.randn(2, 8), target=lambda output: output["logits"][:, 2])
        torch.testing.assert_close(e.relevance.flatten(1).sum(1), torch.ones(2))


class TestCache:
    def test_second_call_captures_nothing(self, captures: list[Any]) -> None:
        model = make("plain")
        for batch in (3, 1, 2):
            relprop.explain(model, pictures(batch))
        relprop.explain(model, pictures(2), target=1, rules="gradient")
        assert len(captures) == 1

    def test_another_picture_size_is_another_capture(self, captures: list[Any]) -> None:
        model = make("convolutional")
        relprop.explain(model, pictures(2, 8))
        relprop.explain(model, pictures(2, 12))
        relprop.explain(model, pictures(2, 8))
        assert len(captures) == 2

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

    def test_parametrized_weights(self) -> None:
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))).eval().double()
        x = torch.randn(2, 8, dtype=torch.float64)
        assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9


class TestKindsOfModels:
    def test_graph_module(self) -> None:
        model, x = make("convolutional"), pictures(3)
        traced = fx.symbolic_trace(model)
        assert distance(relprop.explain(traced, x).relevance, relprop.explain(model, x).relevance) <= 1e-5

    def test_compiled_module_is_looked_into(self) -> None:
        model, x = make("plain"), pictures(2)
        e = relprop.explain(torch.compile(model), x, layers=["features.0"])
        assert torch.equal(e.relevance, relprop.explain(model, x).relevance)

    def test_exported_program_at_other_batch_sizes(self, tmp_path: Path) -> None:
        model = make("transformer")
        program = exported(model, pictures(2))
        torch.export.save(program, tmp_path / "model.pt2")
        for batch in (1, 3):
            x = pictures(batch)
            expected = relprop.explain(model, x, layers=["blocks.1"])
            for source in (program, tmp_path / "model.pt2", str(tmp_path / "model.pt2")):
                e = relprop.explain(source, x, layers=["blocks.1"])
                assert distance(e.relevance, expected.relevance) <= 1e-5
                assert distance(e.layers["blocks.1"], expected.layers["blocks.1"]) <= 1e-5

    def test_exported_program_with_a_callable_target(self) -> None:
        model, x = make("plain"), pictures(2)
        e = relprop.explain(exported(model, x), x, target=_first_class)
        assert distance(e.relevance, relprop.explain(model, x, target=_first_class).relevance) <= 1e-5

    @pytest.mark.parametrize("size", [1, 2])
    def test_static_exported_program(self, size: int) -> None:
        program = torch.export.export(make("plain"), (pictures(size),), strict=False)
        with pytest.raises(CaptureError, match=rf"fixed at a batch of {size}.*dynamic_shapes"):
            relprop.explain(program, pictures(size))

    def test_missing_and_corrupt_files(self, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match=r"nowhere\.pt2 can't be read"):
            relprop.Explainer(tmp_path / "nowhere.pt2")
        (tmp_path / "broken.pt2").write_bytes(b"PK\x03\x04 not a program")
        with pytest.raises(CaptureError, match=r"broken\.pt2 can't be read as an exported program"):
            relprop.explain(tmp_path / "broken.pt2", pictures(2))

    def test_module_with_an_attribute_that_can_not_be_copied(self) -> None:
        model = make("plain")
        model.lock = threading.Lock()
        assert relprop.explain(model, pictures(2)).relevance.isfinite().all()

    def test_names_that_collide(self) -> None:
        class Colliding(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.a_b = nn.Module(), nn.Module()
                self.a.b_c, self.a_b.c = nn.Linear(8, 8), nn.Linear(8, 8)
                self.seed = nn.Parameter(torch.rand(8))
                self.seeds = nn.Parameter(torch.rand(8))
                self.register_buffer("graph", torch.rand(8))
                self.register_buffer("x", torch.rand(8))
                self.register_buffer("target", torch.rand(8))

            def forward(self, x: Tensor) -> Tensor:
                y = self.a_b.c(self.a.b_c(x)) * self.graph * self.seed * self.seeds
                return y + self.x + self.target

        model, x = seeded(Colliding).double(), torch.randn(2, 8, dtype=torch.float64)
        assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9


def _first_class(output: Tensor) -> Tensor:
    return output[:, 0]


class TestInputs:
    def test_positional_and_keyword(self) -> None:
        model = Lambda(lambda m, x, *, y, k=1: m.head(x * y) * k, head=nn.Linear(8, 3)).eval().double()
        x, y = (torch.randn(3, 8, dtype=torch.float64) for _ in range(2))
        e = relprop.explain(model, x, rules="gradient", kwargs={"y": y, "k": 2}, target=0)
        expected = 2 * model.head.weight[0].detach()
        assert set(e.relevances) == {"x", "y"}
        torch.testing.assert_close(e.relevances["x"], expected * y)
        torch.testing.assert_close(e.relevances["y"], expected * x)
        with pytest.raises(relprop.RelpropError, match=r"several sources.*relevances\[x, y\]"):
            _ = e.relevance

    def test_two_positional(self) -> None:
        model = seeded(lambda: Lambda(lambda m, a, b: m.head(a) + m.head(b), head=nn.Linear(8, 3)))
        a, b = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
        e = relprop.explain(model, (a, b), contrast=None)
        assert len(e.relevances) == 2
        torch.testing.assert_close(sum(r.sum(1) for r in e.relevances.values()), torch.ones(3))

    def test_token_indices_need_a_module(self) -> None:
        model, tokens = seeded(models.Text), torch.randint(0, 20, (3, 7))
        with pytest.raises(InputError, match='at="embeddings"'):
            relprop.explain(model, tokens)
        e = relprop.explain(model, tokens, at="embed", contrast=None)
        assert e.relevance.shape == (3, 7, 8)
        torch.testing.assert_close(e.relevance.sum((1, 2)), torch.ones(3))

    def test_at_a_module_inside(self) -> None:
        model, x = make("plain").double(), pictures(2).double()
        e = relprop.explain(model, x, at="features.2", rules="gradient")
        hidden = model.features[:3](x).detach()
        rest = nn.Sequential(model.features[3:], model.head)
        assert distance(e.relevance, gradient(rest, hidden)) <= 1e-9


class TestLayers:
    def test_globs_and_shapes(self) -> None:
        e = relprop.explain(make("transformer"), pictures(2), layers=["blocks.*.mlp", "patches"])
        assert list(e.layers) == ["blocks.0.mlp", "blocks.1.mlp", "patches"]
        assert e.layers["blocks.0.mlp"].shape == (2, 5, 12)
        assert e.layers["patches"].shape == (2, 12, 2, 2)

    def test_relevance_at_a_layer_is_the_gradient_there(self) -> None:
        model, x = make("plain").double(), pictures(2).double()
        e = relprop.explain(model, x, layers=["features.2"], rules="gradient")
        rest = nn.Sequential(model.features[3:], model.head)
        assert distance(e.layers["features.2"], gradient(rest, model.features[:3](x).detach())) <= 1e-9

    def test_reused_module_has_a_list(self) -> None:
        model = seeded(lambda: Lambda(lambda m, x: m.head(m.a(m.a(x).relu())), a=nn.Linear(8, 8), head=nn.Linear(8, 3)))
        e = relprop.explain(model, torch.randn(2, 8), layers=["a", "head"])
        assert [r.shape for r in e.layers["a"]] == [(2, 8), (2, 8)]
        assert isinstance(e.layers["head"], Tensor)

    def test_unknown_module(self) -> None:
        with pytest.raises(CaptureError, match=r"no module 'blocks\.\*'.*features\.0"):
            relprop.explain(make("plain"), pictures(2), layers=["blocks.*"])


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


class TestBatchAxis:
    def marks(self, model: nn.Module, x: Tensor) -> set[Any]:
        return set(relprop.capture(model, (x,)).batch.values())

    def test_merged_windows(self) -> None:
        marks = self.marks(make("windows"), pictures(3))
        assert BatchAxis(0, 16) in marks
        assert BatchAxis(1, 16) in marks

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_multihead_attention(self, batch_first: bool) -> None:
        marks = self.marks(make("heads" if batch_first else "heads-batch-second"), sequences(3))
        assert BatchAxis(1) in marks  # (L, B, E)
        assert BatchAxis(1, 2) in marks  # (L, B H, E)
        assert BatchAxis(0, 1, 6) in marks  # (L B, E)

    def test_samples_that_alternate_are_told_from_samples_in_a_row(self) -> None:
        head = nn.Linear(8, 3).double()
        repeated = Lambda(lambda m, x: m.head(x.repeat(2, 1)).reshape(2, -1, 3).sum(0), head=head).eval()
        interleaved = Lambda(
            lambda m, x: m.head(torch.stack([x, x], 1).reshape(-1, 8)).reshape(-1, 2, 3).sum(1), head=head
        ).eval()
        x = torch.randn(3, 8, dtype=torch.float64)
        assert BatchAxis(0, 1, 2) in self.marks(repeated, x)
        assert BatchAxis(0, 2) in self.marks(interleaved, x)
        for model in (repeated, interleaved):
            assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
            assert relprop.explain(model, x).conservation.error <= 1e-9

    def test_encoder_layer_is_not_taken_as_one_fused_operation(self) -> None:
        ops = operations(make("encoder"), sequences(2))
        assert not [op for op in ops if "transformer_encoder" in str(op) or "native_multi_head" in str(op)]
        assert aten.matmul.default in ops or aten.bmm.default in ops

    def test_batch_axis_arithmetic(self) -> None:
        mark = BatchAxis(1, 2, 3)
        owner = torch.arange(2).repeat_interleave(2).repeat(3)  # of 12 entries, (3, B=2, 2)
        activation = torch.rand(4, 12, 5)
        by_hand = torch.stack([activation[:, owner == b].sum() for b in range(2)])
        torch.testing.assert_close(mark.sum(activation, lead=0), by_hand)
        torch.testing.assert_close(mark.mean(activation), by_hand / (4 * 6 * 5))
        torch.testing.assert_close(mark.dot(activation[None], activation), mark.sum(activation[None] ** 2))
        assert torch.equal(mark.spread(torch.tensor([0, 1]), 3).flatten(), owner)
        torch.testing.assert_close(mark.rows(activation).sum(1), by_hand)


LENGTH = 5


def _masks() -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    allowed = torch.rand(LENGTH, LENGTH, generator=generator) > 0.3
    allowed |= torch.eye(LENGTH, dtype=torch.bool)
    return {
        "plain": {},
        "bool-mask": {"attn_mask": allowed},
        "float-mask": {"attn_mask": torch.randn(LENGTH, LENGTH, generator=generator)},
        "causal": {"is_causal": True},
        "scale": {"scale": 0.7},
    }


def _by_hand(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    logits = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(LENGTH, LENGTH, dtype=q.dtype).masked_fill(~attn_mask, -math.inf)
    if attn_mask is not None:
        logits = logits + attn_mask.to(q.dtype)
    return logits.softmax(-1) @ v


class Attention(nn.Module):
    def __init__(self, attend: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, CLASSES)
        self.attend = attend
        self.options = {k: v.double() if k == "attn_mask" and v.is_floating_point() else v for k, v in options.items()}

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], LENGTH, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return self.head(self.attend(q, k, v, **self.options).transpose(1, 2).reshape(x.shape[0], LENGTH, 8).mean(1))


@pytest.mark.parametrize("options", _masks().values(), ids=_masks())
@pytest.mark.parametrize("rules", ["abslrp", "gradient"])
def test_fused_attention_equals_attention_written_out(options: dict[str, Any], rules: str) -> None:
    x = torch.randn(3, LENGTH, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fused = seeded(lambda: Attention(F.scaled_dot_product_attention, options)).double()
    unfused = seeded(lambda: Attention(_by_hand, options)).double()
    a, b = (relprop.explain(model, x, rules=rules) for model in (fused, unfused))
    torch.testing.assert_close(a.output, b.output)
    assert distance(a.relevance, b.relevance) <= 1e-9
    if rules == "gradient":
        assert distance(a.relevance, gradient(fused, x)) <= 1e-9
    else:
        assert a.conservation.error <= 1e-9
        assert a.relevance.abs().sum() > 0


PADDED = torch.tensor([3, 5, 0])
CLOSED = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(-1)  # the first query has no key


def _padding(lengths: Tensor) -> Tensor:
    inside = torch.arange(LENGTH) < lengths[:, None]
    return inside[:, None, :, None] & inside[:, None, None]


def _infinite(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).double().masked_fill(~mask, -math.inf)


MASKS_THAT_CLOSE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "padding": lambda m, given: _padding(given),
    "padding, in numbers": lambda m, given: _infinite(_padding(given)),
    "no key": lambda m, given: CLOSED,
    "no key, in numbers": lambda m, given: _infinite(CLOSED),
    "no key, held": lambda m, given: m.held,
    "no key, given": lambda m, given: given,
}


@pytest.mark.parametrize("name", MASKS_THAT_CLOSE)
def test_a_query_without_any_key_attends_to_nothing(name: str) -> None:
    """torch's kernels return 0 there, and softmax itself NaN."""

    def forward(m: nn.Module, x: Tensor, given: Tensor) -> Tensor:
        q, k, v = m.qkv(x).reshape(x.shape[0], LENGTH, 3, 2, 4).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, MASKS_THAT_CLOSE[name](m, given))
        return m.head(attended.transpose(1, 2).flatten(2)).mean(1)

    model = seeded(lambda: Lambda(forward, qkv=nn.Linear(8, 24), head=nn.Linear(8, CLASSES))).double()
    model.register_buffer("held", _infinite(CLOSED))
    x = torch.randn(3, LENGTH, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = _infinite(CLOSED) if name == "no key, given" else PADDED
    a, b = (relprop.explain(model, (x, given), rules=rules) for rules in ("gradient", "abslrp"))
    torch.testing.assert_close(a.output, model(x, given))
    assert relprop.gradient_oracle_error(model, (x, given)) <= 1e-9
    assert b.relevance.isfinite().all()
    assert b.conservation.error <= 1e-9
    assert b.relevance[:2].flatten(1).any(1).all()


def test_a_learned_bias_of_attention_costs_nothing_more() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(F.scaled_dot_product_attention(x, x, x, m.bias).mean(1))

    model = seeded(lambda: Lambda(forward, bias=nn.Parameter(torch.randn(4, 4)), head=nn.Linear(6, CLASSES)))
    operations = [site.op for site in relprop.Explainer(model).plan(torch.randn(2, 4, 6)).sites.values()]
    assert aten.masked_fill.Scalar not in operations


@pytest.mark.parametrize("equation", ["bij,bkj->bik", "bij,bjk->bik", "bij,bij->bi", "bij,kj->bik", "bij,bkl->bil"])
def test_einsum(equation: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        second = m.weight if ",k" in equation else x
        return m.head(torch.einsum(equation, x, second).flatten(1)[:, :6])

    model = seeded(lambda: Lambda(forward, weight=nn.Parameter(torch.randn(6, 6)), head=nn.Linear(6, 3))).double()
    x = torch.randn(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
    e = relprop.explain(model, x)
    assert e.conservation.error <= 1e-9


PLAIN_NAMES: Any = {
    "concat": torch.cat,
    "divide": torch.div,
    "moveaxis": torch.movedim,
    "multiply": torch.mul,
    "negative": torch.neg,
    "subtract": torch.sub,
    "swapaxes": torch.transpose,
    "true_divide": torch.div,
}


@pytest.mark.parametrize("call", ["clip", "absolute", *PLAIN_NAMES])
def test_operations_of_two_names_are_one(call: str) -> None:
    """Other libraries write ``torch.subtract``, and rules are for ``torch.sub``."""
    arguments: dict[str, Any] = {
        "clip": lambda x: (x, -0.5, 0.5),
        "concat": lambda x: ([x, x.relu()], 1),
        "moveaxis": lambda x: (x, 1, 2),
        "swapaxes": lambda x: (x, 1, 2),
        "absolute": lambda x: (x,),
        "negative": lambda x: (x,),
    }
    plain = {"clip": torch.clamp, "absolute": torch.abs, **PLAIN_NAMES}[call]

    def model(function: Any) -> nn.Module:
        chosen = arguments.get(call, lambda x: (x, x.sigmoid() + 1))
        return seeded(lambda: Lambda(lambda m, x: m.head(function(*chosen(x)).mean(1)), head=nn.Linear(4, 3)))

    x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    one, other = (relprop.Explainer(model(function)) for function in (getattr(torch, call), plain))
    assert [site.op for site in one.plan(x).sites.values()] == [site.op for site in other.plan(x).sites.values()]
    assert torch.equal(one(x).relevance, other(x).relevance)


@pytest.mark.parametrize("value", [1, -0.5])
def test_a_product_that_is_added_is_a_sum_and_a_product(value: float) -> None:
    def model(function: Any) -> nn.Module:
        return seeded(
            lambda: Lambda(
                lambda m, x: m.head(function(m.shift, m.gain, x * x.mean(1, keepdim=True), value=value)),
                shift=nn.Parameter(torch.randn(6)), gain=nn.Parameter(torch.randn(6)), head=nn.Linear(6, 3),
            )
        )  # fmt: skip

    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    spelled = model(lambda term, a, b, value: term + value * (a * b))
    one, other = relprop.explain(model(torch.addcmul), x), relprop.explain(spelled, x)
    assert one.conservation.error <= 1e-5
    torch.testing.assert_close(one.relevance, other.relevance)


def test_a_norm_of_one_entry_depends_on_nothing() -> None:
    """timm's CSATv2 has attention between its samples, of what such a norm leaves of them: its bias, always."""

    def forward(m: Any, x: Tensor) -> Tensor:
        single = m.norm(m.down(x)).squeeze(1)
        return m.head(x + (single[:, None] * single).softmax(1).sum(1, keepdim=True))

    model = seeded(lambda: Lambda(forward, norm=nn.LayerNorm(1), down=nn.Linear(6, 1), head=nn.Linear(6, 3))).double()
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-12
    e = relprop.explain(model, x)
    assert e.conservation.error <= 1e-9
    assert "aten.layer_norm.default" not in {cut.operation for cut in e.conservation.cuts}
    torch.testing.assert_close(e[1].relevance, relprop.explain(model, x[1:2]).relevance)


@pytest.mark.parametrize("rules", ["gradient", "abslrp", "epsilon-plus"])
@pytest.mark.parametrize("outer", [torch.float32, torch.float64])
def test_a_model_may_change_its_precision(outer: torch.dtype, rules: str) -> None:
    """Keras computes means in one precision and layers in another; so do careful models by hand."""
    inner = torch.float64 if outer == torch.float32 else torch.float32

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.inner(x.to(inner)).relu()
        return m.head((y.to(outer) + x).unflatten(1, (2, 4)).to(inner).mean(1).to(outer)) + y.mean(1, keepdim=True)

    model = seeded(lambda: Lambda(forward, inner=nn.Linear(8, 8, dtype=inner), head=nn.Linear(4, CLASSES, dtype=outer)))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=outer)
    e = relprop.explain(model, x, rules=rules)
    assert e.relevance.abs().sum() > 0
    if rules == "gradient":
        assert distance(e.relevance, gradient(model, x)) <= 1e-6
    elif rules == "abslrp":
        assert e.conservation.error <= 1e-5


def test_detach_blocks_the_gradient_and_passes_relevance() -> None:
    model = seeded(
        lambda: Lambda(lambda m, x: m.head(x[:, :4] + m.a(x).detach()), a=nn.Linear(8, 4), head=nn.Linear(4, CLASSES))
    ).double()
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = relprop.explain(model, x, rules="gradient").relevance
    assert distance(found, gradient(model, x)) <= 1e-9
    assert not found[:, 4:].any()
    assert relprop.explain(model, x).relevance[:, 4:].any()


@pytest.mark.parametrize("switch", [torch.enable_grad, lambda: torch.set_grad_enabled(True)])
@pytest.mark.parametrize("source", ["module", "frozen", "program"])
def test_a_region_that_switches_the_gradient_on_blocks_nothing(switch: Any, source: str) -> None:
    """But a ``detach`` inside one does."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with switch():
            y = m.a(x).relu()
            with torch.enable_grad():
                z = m.b(x).tanh().detach()
        return m.head(y + z)

    model = seeded(lambda: Lambda(forward, a=nn.Linear(8, 4), b=nn.Linear(8, 4), head=nn.Linear(4, CLASSES))).double()
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = gradient(model, x)
    model.requires_grad_(source != "frozen")
    with torch.no_grad():
        explained = exported(nn.Sequential(model), x) if source == "program" else model
    assert expected.abs().max() > 1e-2
    assert distance(relprop.explain(explained, x, rules="gradient").relevance, expected) <= 1e-9


def test_capture_can_not_see_no_grad() -> None:
    """A known limit: only ``detach`` leaves a trace, so here the program differs from autograd."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            blocked = m.a(x)
        return m.head(x[:, :4] + blocked)

    model = seeded(lambda: Lambda(forward, a=nn.Linear(8, 4), head=nn.Linear(4, CLASSES))).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    found = relprop.explain(model, x, rules="gradient").relevance
    seen = Lambda(lambda m, x: m.head(x[:, :4] + m.a(x)), a=model.a, head=model.head).eval()
    assert distance(found, gradient(seen, x)) <= 1e-9
    assert distance(found, gradient(model, x)) > 1e-2


def test_registering_the_rule_that_the_error_asks_for() -> None:
    model = Lambda(lambda m, x: m.head(torch.i0(x)), head=nn.Linear(8, 3)).eval()
    rules = rule_registry.get("abslrp").derive({aten.i0.default: rule_registry.passes})
    assert relprop.explain(model, torch.randn(2, 8), rules=rules).conservation.error <= 1e-5
