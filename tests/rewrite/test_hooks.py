"""Relevance hooks: where they are called and with what, what they may return, and the programs they are in."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop import CaptureError, HookError, NodeInfo
from rule_registry import BatchAxis
from tests.helpers import models
from tests.helpers.hooks import Seen, keep, negative, stop
from tests.helpers.models import CLASSES, Lambda, distance, kept, make, pictures, seeded

# What a hook is told


@pytest.mark.sweep(every=5)
@pytest.mark.parametrize(
    ("kind", "rules", "layer"),
    [
        ("convolutional", "abslrp", "stem"),
        ("convolutional", "epsilon", "stem"),
        ("convolutional", "gradient", "stem"),
        ("transformer", "abslrp", "blocks.0"),
        ("plain", "abslrp-released", "features"),
    ],
)
def test_observing_changes_no_bit(kind: str, rules: str, layer: str) -> None:
    seen = Seen()
    model, x = kept(kind), pictures(3)
    bare = relprop.explain(model, x, rules=rules, layers=[layer])
    hooked = relprop.explain(model, x, rules=rules, layers=[layer], hooks={"*": seen})
    assert torch.equal(hooked.relevance, bare.relevance)
    assert torch.equal(hooked.layers[layer], bare.layers[layer])
    assert hooked.conservation.masked == ()
    assert "masked" not in str(hooked.conservation)
    assert {info.path for info, _ in seen.calls} >= {layer, "head"}


def test_an_observer_sees_the_relevance_that_layers_return() -> None:
    seen = Seen()
    e = relprop.explain(kept("transformer"), pictures(2), layers=["blocks.0.mlp"], hooks={"blocks.0.mlp": seen})
    ((info, relevance),) = seen.calls
    assert info == NodeInfo(
        "blocks.0.mlp", "blocks_0_mlp_2", "aten.linear.default", 0, BatchAxis(0), ("target", "rest")
    )
    assert relevance.shape == (2, 2, 5, 12)
    assert torch.equal(relevance[0] - relevance[1], e.layers["blocks.0.mlp"])


def test_without_contrast_there_is_one_seed() -> None:
    seen = Seen()
    relprop.explain(kept("plain"), pictures(2), contrast=None, hooks={"features": seen})
    ((info, relevance),) = seen.calls
    assert info.seeds == ("target",)
    assert relevance.shape == (1, 2, 8, 2, 2)


def test_a_module_called_repeatedly_is_told_apart() -> None:
    seen = Seen()
    e = relprop.explain(kept("convolutional"), pictures(2), contrast=None, layers=["branch"], hooks={"branch": seen})
    assert [info.call for info, _ in seen.calls] == [1, 0]  # relevance meets the later call first
    for info, relevance in seen.calls:
        assert torch.equal(relevance[0], e.layers["branch"][info.call])
    stopped = [0, 0]

    def stop_second(info: NodeInfo, relevance: Tensor) -> Tensor | None:
        stopped[info.call] += 1
        return torch.zeros_like(relevance) if info.call == 1 else None

    e = relprop.explain(
        kept("convolutional"), pictures(2), contrast=None, layers=["branch"], hooks={"branch": stop_second}
    )
    assert stopped == [1, 1]
    assert not e.layers["branch"][1].any()
    assert e.layers["branch"][0].any()


def test_globs_and_names_of_operations() -> None:
    model, x = kept("transformer"), pictures(2)
    seen, attended, source = Seen(), Seen(), Seen()
    hooks = {"blocks.?.mlp": seen, "blocks_?_matmul_1": attended, "x": source}
    e = relprop.explain(model, x, contrast=None, hooks=hooks)
    assert [info.path for info, _ in seen.calls] == ["blocks.1.mlp", "blocks.0.mlp"]
    assert [(info.path, info.operation) for info, _ in attended.calls] == [
        (path, "aten.matmul.default") for path in ("blocks.1", "blocks.0")
    ]
    assert attended.last.shape == (1, 2, 2, 5, 6)
    assert source.calls[0][0] == NodeInfo("", "x", "input", 0, BatchAxis(0), ("target",))
    assert torch.equal(source.last[0], e.relevance)


def test_several_hooks_at_one_place_in_order() -> None:
    order: list[tuple[str, float]] = []

    def half(info: NodeInfo, relevance: Tensor) -> Tensor:
        order.append((info.path, float(relevance.sum())))
        return relevance / 2

    # A sequential's output is its last module's: the outer one comes first, as relevance comes from outside.
    relprop.explain(kept("plain"), pictures(1), contrast=None, hooks={"features": half, "features.4": half})
    assert [path for path, _ in order] == ["features", "features.4"]
    assert [mass for _, mass in order] == pytest.approx([1, 0.5])


def test_batch_norm_has_a_hook_where_it_merges() -> None:
    seen = Seen()
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)))
    e = relprop.explain(model, pictures(2), rules="epsilon", layers=["1", "0"], hooks={"1": keep(slice(0, 1))})
    assert not e.layers["1"][:, 1:].any()
    assert torch.equal(e.layers["0"], e.layers["1"])
    assert e.layers["0"].any()
    relprop.explain(model, pictures(2), rules="epsilon", hooks={"0": seen, "1": stop})
    assert not seen.last.any()


@pytest.mark.sweep(every=8)
@pytest.mark.parametrize("kind", ["windows", "heads", "heads-batch-second", "transformer"])
@pytest.mark.parametrize("size", [1, 2])
def test_chunks_and_merged_batch_axes(kind: str, size: int) -> None:
    """Signed relevance per sample: whatever a batch is cut into, and wherever the samples lie, the same comes out."""
    model, x = make(kind).double(), models.KINDS[kind][1](3).double()
    plan = relprop.Explainer(model).plan(x)
    at = [node.name for node in plan.sites if getattr(plan.graph.batch[node], "merged", False)][-1:]
    assert (at == []) == (kind == "transformer")
    at = at or ["blocks_0_add"]
    calls = []

    def turn(info: NodeInfo, relevance: Tensor) -> Tensor | None:
        calls.append((info.batch, relevance.clone()))
        return negative(info, relevance)

    hooks = dict.fromkeys(at, turn)
    whole = relprop.explain(model, x, layers=["head"], hooks=hooks)
    assert len(calls) == 1
    parts = relprop.explain(model, x, layers=["head"], hooks=hooks, batch_size=size)
    assert len(calls) == 1 + -(-3 // size)
    (mark, relevance), (_, first), *_ = calls
    torch.testing.assert_close(mark.take(relevance, slice(0, size), lead=1), first)
    assert distance(parts.relevance, whole.relevance) <= 1e-9
    assert float(whole.seeds["x"].min()) < 0
    assert parts.conservation.error <= 1e-9
    assert whole.conservation.error <= 1e-9
    torch.testing.assert_close(parts.conservation.masses, whole.conservation.masses)


@pytest.mark.full
def test_chunks_of_which_one_alone_is_signed() -> None:
    model, x = make("transformer").double(), pictures(3).double()

    def turn_last(info: NodeInfo, relevance: Tensor) -> Tensor | None:
        turn_last.calls += 1
        return negative(info, relevance) if turn_last.calls == 3 else None

    turn_last.calls = 0
    e = relprop.explain(model, x, batch_size=1, contrast=None, hooks={"blocks.0": turn_last})
    assert distance(e.relevance[:2], relprop.explain(model, x[:2], contrast=None).relevance) <= 1e-9
    alone = relprop.explain(model, x[2:], contrast=None, hooks={"blocks.0": negative})
    assert distance(e.relevance[2:], alone.relevance) <= 1e-9
    assert e.conservation.error <= 1e-9


# What a hook may return


@pytest.mark.parametrize("rules", ["abslrp", "gradient"])
def test_a_stopped_branch_gives_the_map_of_the_rest(rules: str) -> None:
    """Two parallel layers: without relevance at one, the map is that of the other's share alone."""
    model = seeded(lambda: Lambda(lambda m, x: m.a(x) * 2 + m.b(x) * 3, a=nn.Linear(8, 5), b=nn.Linear(8, 5)))
    x = torch.randn(3, 8)
    both = relprop.explain(model, x, rules=rules, contrast=None, layers=["a", "b"])
    e = relprop.explain(model, x, rules=rules, contrast=None, layers=["a", "b"], hooks={"a": stop})
    assert not e.layers["a"].any()
    assert torch.equal(e.layers["b"], both.layers["b"])
    expected = relprop.explain(model, x, rules=rules, contrast=None, hooks={"b": stop}).relevance + e.relevance
    torch.testing.assert_close(expected, both.relevance)  # each layer rescales for itself, so this holds under abslrp


def test_layers_and_sources_return_what_the_hook_left() -> None:
    mask = keep(slice(0, 2))
    e = relprop.explain(kept("plain"), pictures(2), layers=["features"], hooks={"features": mask})
    assert not e.layers["features"][:, 2:].any()
    assert e.layers["features"][:, :2].any()
    e = relprop.explain(kept("plain"), pictures(2), at="features", hooks={"features": mask})
    assert not e.relevance[:, 2:].any()
    assert e.relevance[:, :2].any()
    assert e.conservation.error <= 1e-5
    assert e.conservation.masked


def test_a_hook_owns_what_it_is_given() -> None:
    """Changing it in place and returning it works, and touches no other branch that the same relevance goes to."""

    def in_place(info: NodeInfo, relevance: Tensor) -> Tensor:
        relevance[:, :, 2:] = 0
        return relevance

    model, x = kept("plain"), pictures(2)
    found = relprop.explain(model, x, hooks={"features.4": in_place}, layers=["features.3"])
    expected = relprop.explain(model, x, hooks={"features.4": keep(slice(0, 2))}, layers=["features.3"])
    assert torch.equal(found.relevance, expected.relevance)
    seen = Seen()
    explainer = relprop.Explainer(model, hooks={"features": seen})
    bare = explainer(x).relevance
    seen.last.zero_()
    assert torch.equal(explainer(x).relevance, bare)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda i, r: r[:1], r"shape \(1, 2, 8, 2, 2\), where \(2, 2, 8, 2, 2\) is expected"),
        (lambda i, r: r.double(), r"dtype torch\.float64, where torch\.float32 is expected"),
        (lambda i, r: r.to("meta"), r"device meta, where cpu is expected"),
        (lambda i, r: r / 0, r"returned relevance that is not finite$"),
        (lambda i, r: "nothing", r"returned a str, where a tensor or None is expected"),
        (lambda i, r: (r.zero_(), None)[1], r"in place but returned nothing"),
    ],
    ids=["shape", "dtype", "device", "infinite", "type", "in-place"],
)
def test_what_does_not_fit_is_one_error_that_names_the_place(hook: Any, message: str) -> None:
    with pytest.raises(HookError, match=r"^the hook <lambda> at 'features' .*" + message):
        relprop.explain(kept("plain"), pictures(2), hooks={"features": hook})
    assert issubclass(HookError, relprop.RelpropError)


def test_an_error_inside_a_hook_is_the_users_own() -> None:
    def fails(info: NodeInfo, relevance: Tensor) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        relprop.explain(kept("plain"), pictures(2), hooks={"features": fails})


def test_places_there_are_not() -> None:
    model, x = kept("plain"), pictures(2)
    with pytest.raises(CaptureError, match=r"hook .* no module matches 'nowhere'.*features\.0.* nor .*operation"):
        relprop.explain(model, x, hooks={"nowhere": stop})
    with pytest.raises(CaptureError, match=r"hook .* no module matches 'feature\.0'.*near names: features\.0"):
        relprop.explain(model, x, hooks={"feature.0": stop})
    with pytest.raises(CaptureError, match=r"no relevance passes 'features\.0'"):
        relprop.explain(model, x, at="features.1", hooks={"features.0": stop})
    with pytest.raises(TypeError, match="hooks must be a mapping"):
        relprop.Explainer(model, hooks=[stop])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the hook at 'features' must be a function"):
        relprop.Explainer(model, hooks={"features": 3})  # type: ignore[dict-item]
    seen = Seen()  # of a glob only what relevance passes is meant
    relprop.explain(model, x, at="features.1", hooks={"features.*": seen})
    assert [info.path for info, _ in seen.calls] == [f"features.{k}" for k in (4, 3, 2, 1)]


# Programs


def test_hooks_show_up_in_the_printed_program() -> None:
    program = relprop.Explainer(kept("plain"), hooks={"features": stop}).program(pictures(2))
    assert "self.hook_features_4(" in program.code
    assert "hooked_features_4" in program.code
    assert "stop at 'features'" in str(program.hook_features_4)


def test_programs_are_kept_by_the_identity_of_hooks() -> None:
    model, x = kept("plain"), pictures(2)
    bare = relprop.explain(model, x).relevance
    explainer = relprop.Explainer(model, hooks={"features": stop})
    program = explainer.program(x)
    assert explainer.program(pictures(3)) is program
    assert not explainer(x).relevance.any()
    assert torch.equal(relprop.explain(model, x).relevance, bare)
    assert relprop.explain(model, x, hooks={"features": keep(slice(0, 4))}).relevance.any()
    explainer.hooks["features"] = keep(slice(0, 4))
    assert explainer.program(x) is not program
    assert explainer(x).relevance.any()


def test_programs_with_hooks_do_not_pile_up_and_follow_the_model() -> None:
    model, x = make("plain"), pictures(2)
    explainer = relprop.Explainer(model, hooks={"features": keep(slice(0, 4))}, contrast=None)
    for k in range(10):
        explainer.rules = rule_registry.get("abslrp", delta=0.1 * k)
        explainer(x)
    assert len(explainer._hooked_programs) <= 8
    before = explainer(x)
    model.head[2].weight = nn.Parameter(model.head[2].weight.detach().flip(0))  # another graph
    model.head[2].bias = nn.Parameter(model.head[2].bias.detach().flip(0))
    after = explainer(x)
    assert torch.equal(after.target, CLASSES - 1 - before.target)
    assert distance(after.relevance, before.relevance) <= 1e-5


@pytest.mark.full
def test_a_hook_that_refers_to_the_model_keeps_nobody_alive() -> None:
    class Keeper:
        def __init__(self, model: nn.Module) -> None:
            self.model = model

        def __call__(self, info: NodeInfo, relevance: Tensor) -> None:
            assert self.model.get_submodule(info.path)

    def use() -> weakref.ref[nn.Module]:
        model = seeded(models.Plain)
        relprop.explain(model, pictures(2), hooks={"features": Keeper(model)})
        return weakref.ref(model)

    gone = use()
    gc.collect()
    assert gone() is None


def test_the_model_is_untouched() -> None:
    model, x = make("convolutional"), pictures(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    relprop.explain(model, x, hooks={"*": stop})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for module in model.modules():
        assert not any((module._forward_hooks, module._backward_hooks, module._forward_pre_hooks))


@pytest.mark.full
@pytest.mark.parametrize("hook", [keep(slice(0, 3)), negative], ids=["mask", "signed"])
def test_a_program_exports_if_its_hooks_can(hook: Any) -> None:
    explainer = relprop.Explainer(kept("plain"), hooks={"features": hook})
    program = explainer.program(pictures(2))
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        exported = torch.export.export(program, (pictures(3),), dynamic_shapes=shapes, strict=False)
    for batch in (2, 4):
        with torch.no_grad():
            found = exported.module()(pictures(batch))
        assert distance(found["relevance"][0], explainer(pictures(batch)).seeds["x"]) <= 1e-5
