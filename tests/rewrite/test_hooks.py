"""Relevance hooks: where they are called and with what, what they may return, and what becomes of the mass."""

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
from relprop.rewrite.signed import alike, apart, gross, net
from rule_registry import BatchAxis
from tests.helpers import models
from tests.helpers.models import CLASSES, Lambda, distance, kept, make, pictures, seeded

LINEAR = ("gradient", "epsilon", "lrp-0", "input-times-gradient")


class Seen:
    """A hook that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[NodeInfo, Tensor]] = []

    def __call__(self, info: NodeInfo, relevance: Tensor) -> None:
        self.calls.append((info, relevance))

    @property
    def last(self) -> Tensor:
        return self.calls[-1][1]


def keep(channels: slice, axis: int = 2) -> Any:
    """Let the relevance of some channels through, ``(S, B, C, ...)``."""

    def mask(info: NodeInfo, relevance: Tensor) -> Tensor:
        kept = torch.zeros_like(relevance)
        part = (slice(None),) * axis + (channels,)
        kept[part] = relevance[part]
        return kept

    return mask


def stop(info: NodeInfo, relevance: Tensor) -> Tensor:
    return torch.zeros_like(relevance)


def negative(info: NodeInfo, relevance: Tensor) -> Tensor:
    """Turn the sign of every other entry along the last axis."""
    return relevance * (1 - 2 * (torch.arange(relevance.shape[-1]) % 2))


# What a hook is told


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
    with pytest.raises(CaptureError, match=r"hook .* no module 'nowhere' .*features, features\.0.* nor .*operation"):
        relprop.explain(model, x, hooks={"nowhere": stop})
    with pytest.raises(CaptureError, match=r"hook .* no module 'feature\.0' .*near names: features\.0"):
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


# What becomes of the mass


def test_what_a_hook_takes_away_is_named_and_is_no_error() -> None:
    model, x = kept("transformer"), pictures(2)
    seen = Seen()
    relprop.explain(model, x, hooks={"blocks.1.mlp": seen})
    share = seen.last.sum((2, 3))
    c = relprop.explain(model, x, hooks={"blocks.1.mlp": stop}).conservation
    (cut,) = c.masked
    assert (cut.name, cut.path, cut.operation, cut.rule) == ("blocks_1_mlp_2", "blocks.1.mlp", "hook", "stop")
    torch.testing.assert_close(cut.lost, share)
    torch.testing.assert_close(c.masses[-1], 1 - share)
    assert c.error <= 1e-5
    assert c.lost == 0
    assert c.losses == ()
    assert c.suspects == ()
    assert f"masked at blocks.1.mlp: {float(share.max()):.1e} of the mass taken away by the hook stop" in str(c)
    assert c.masses.shape == (len(c.cuts), 2, 2)
    assert float(cut.factor.abs().max()) == 0


def test_what_a_hook_adds_is_named() -> None:
    c = relprop.explain(
        kept("plain"), pictures(2), contrast=None, hooks={"features": lambda info, r: 3 * r}
    ).conservation
    assert c.error <= 1e-5
    torch.testing.assert_close(c.masses[-1], torch.full((1, 2), 3.0))
    assert "masked at features: 2.0e+00 of the mass added by the hook <lambda>" in str(c)


def test_what_rules_lose_stays_a_loss_of_theirs() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[2].weight.abs_().neg_()
    c = relprop.explain(
        model, torch.rand(3, 8), contrast=None, target=1, hooks={"2": lambda info, r: r / 4}
    ).conservation
    assert c.lost == 0.25
    assert [cut.lost.max() for cut in c.masked] == [0.75]
    assert [cut.name for cut in c.losses] == ["_2"]
    assert c.error <= 1e-6


def test_a_deleting_rule_behind_a_hook_is_still_an_error() -> None:
    def drops(call: Any, relevance: Tensor) -> Tensor:
        moved = relevance.reshape(relevance.shape[0], *call.input.shape).clone()
        moved[..., 0] = 0
        return moved

    model, x = kept("plain"), pictures(2)
    plan = relprop.Explainer(model).plan(x)
    op = next(site.op for site in plan.sites.values() if site.path == "head.0")
    rules = rule_registry.get("abslrp").derive({rule_registry.select(op=op, path="head.0"): drops})
    c = relprop.explain(model, x, rules=rules, hooks={"head": lambda info, r: r / 2}).conservation
    assert c.error > 1e-2


def test_under_rules_that_measure_mass_hooks_are_named_too() -> None:
    c = relprop.explain(kept("plain"), pictures(2), rules="epsilon", hooks={"features": stop}).conservation
    assert not c.masses[-1].any()
    assert "masked at features" in str(c)
    assert c.error <= 1e-4
    assert [cut.path for cut in c.masked] == ["features"]


def test_a_slice_of_an_explanation_keeps_what_hooks_did() -> None:
    e = relprop.explain(kept("plain"), pictures(3), hooks={"features": keep(slice(0, 3))})
    assert torch.equal(e[1].conservation.masked[0].lost, e.conservation.masked[0].lost[:, 1:2])
    assert e[1].conservation.error <= 1e-5


def test_relevance_injected_where_none_arrived() -> None:
    rules = rule_registry.get("abslrp").derive({rule_registry.select(path="features.4"): rule_registry.blocks})

    def inject(info: NodeInfo, relevance: Tensor) -> Tensor:
        assert not relevance.any()
        return torch.full_like(relevance, 1 / relevance[0, 0].numel())

    e = relprop.explain(kept("plain"), pictures(2), rules=rules, contrast=None, hooks={"features.3": inject})
    torch.testing.assert_close(e.relevance.sum((1, 2, 3)), torch.ones(2))
    assert e.conservation.error <= 1e-5
    assert e.conservation.lost == pytest.approx(1)


# Relevance of both signs


def test_positive_and_negative_parts_are_propagated_apart() -> None:
    """The oracle: two explanations with a hook of one sign each, subtracted."""
    model, x = make("transformer").double(), pictures(3).double()

    def part(sign: int) -> Any:
        return lambda info, relevance: (sign * 9 * negative(info, relevance)).clamp(min=0)

    at, seen, layers = "blocks.1.mlp", Seen(), ["blocks.0", "patches"]
    relprop.explain(model, x, hooks={at: seen})
    found = relprop.explain(model, x, layers=layers, hooks={at: lambda info, r: 9 * negative(info, r)})
    # What flows past the branch is positive, so it meets the positive part and not the negative one.
    plus = relprop.explain(model, x, layers=layers, hooks={at: part(1)})
    alone = {"blocks.1": stop, at: lambda info, r: part(-1)(info, seen.last)}
    minus = relprop.explain(model, x, layers=layers, hooks=alone)
    torch.testing.assert_close(found.seeds["x"], plus.seeds["x"] - minus.seeds["x"])
    for layer in layers:
        torch.testing.assert_close(found.layers[layer], plus.layers[layer] - minus.layers[layer])
    assert float(found.seeds["x"].min()) < 0
    assert found.conservation.error <= 1e-9
    assert found.conservation.suspects == ()
    # In a chain nothing flows past, and the difference is exact.
    chain = "blocks.0"
    found = relprop.explain(model, x, layers=["patches"], hooks={chain: lambda info, r: 9 * negative(info, r)})
    plus, minus = (relprop.explain(model, x, layers=["patches"], hooks={chain: part(sign)}) for sign in (1, -1))
    torch.testing.assert_close(found.seeds["x"], plus.seeds["x"] - minus.seeds["x"])
    torch.testing.assert_close(found.layers["patches"], plus.layers["patches"] - minus.layers["patches"])
    assert found.conservation.error <= 1e-9
    mass = found.seeds["x"].sum((2, 3, 4))
    torch.testing.assert_close(found.conservation.masses[-1], mass)
    torch.testing.assert_close(mass, 1 - sum(cut.lost for cut in found.conservation.cuts))


def test_relevance_whose_parts_cancel_stays_finite_and_conserved() -> None:
    """Rescaling to a mass of zero would delete or explode it."""

    def balanced(info: NodeInfo, relevance: Tensor) -> Tensor:
        return relevance - relevance.mean((2, 3, 4), keepdim=True)

    e = relprop.explain(make("plain").double(), pictures(2).double(), contrast=None, hooks={"features.1": balanced})
    torch.testing.assert_close(e.relevance.sum((1, 2, 3)), torch.zeros(2).double())
    assert float(e.relevance.abs().sum()) > 0.1
    assert e.conservation.error <= 1e-9


def test_linear_rule_sets_take_signed_relevance_as_it_is() -> None:
    model, x = make("plain").double(), pictures(2).double()
    seen = Seen()
    hooks = {"features.3": lambda info, r: -r, "features.1": seen}
    found = relprop.explain(model, x, rules="gradient", contrast=None, hooks=hooks)
    assert seen.last.shape[0] == 1
    torch.testing.assert_close(found.relevance, -relprop.explain(model, x, rules="gradient", contrast=None).relevance)


def test_a_second_hook_sees_the_difference_of_the_parts() -> None:
    seen = Seen()
    e = relprop.explain(
        kept("transformer"),
        pictures(2),
        contrast=None,
        layers=["patches"],
        hooks={"blocks.1": negative, "patches": seen},
    )
    assert seen.last.shape[0] == 1
    assert torch.equal(seen.last[0], e.layers["patches"])


def test_only_a_sign_that_is_there_costs() -> None:
    def flows(hook: Any) -> int:
        program = relprop.Explainer(kept("plain"), hooks={"features": hook}).program(pictures(2))
        counts = []
        program.rule_features_3.register_forward_pre_hook(lambda module, args: counts.append(args[0].shape[0]))
        program(pictures(2))
        return counts[0]

    assert flows(keep(slice(0, 1))) == 2
    assert flows(lambda info, relevance: -relevance) == 4


def test_parts_of_a_relevance() -> None:
    relevance = torch.randn(2, 3, 4)
    flows = apart(relevance)
    assert flows.shape == (4, 3, 4)
    assert float(flows.min()) == 0
    assert torch.equal(net(flows, 2), relevance)
    assert torch.equal(gross(flows, 2), relevance.abs())
    assert net(relevance, 2) is relevance
    one, none, two = alike([relevance, None, flows])
    assert none is None
    assert two is flows
    assert one is not None
    assert torch.equal(net(one, 2), relevance)


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
    assert len(explainer._hooked) <= 8
    before = explainer(x)
    model.head[2].weight = nn.Parameter(model.head[2].weight.detach().flip(0))  # another graph
    model.head[2].bias = nn.Parameter(model.head[2].bias.detach().flip(0))
    after = explainer(x)
    assert torch.equal(after.target, CLASSES - 1 - before.target)
    assert distance(after.relevance, before.relevance) <= 1e-5


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


# Worked examples


@pytest.mark.parametrize("rules", LINEAR)
@pytest.mark.parametrize("contrast", [None, "rest"])
def test_maps_of_complementary_concepts_add_up(rules: str, contrast: Any) -> None:
    model, x = make("convolutional").double(), pictures(3).double()

    def explain(hook: Any) -> Tensor:
        return relprop.explain(model, x, rules=rules, contrast=contrast, hooks={"project": hook}).relevance

    parts = [explain(keep(channels)) for channels in (slice(0, 2), slice(2, 3), slice(3, None))]
    assert all(part.any() for part in parts)
    # What flows past the layer, through the branch beside it, is in every part.
    whole, past = relprop.explain(model, x, rules=rules, contrast=contrast).relevance, explain(stop)
    torch.testing.assert_close(sum(part - past for part in parts) + past, whole, rtol=1e-8, atol=1e-10)


def test_masses_of_complementary_concepts_add_up_under_abslrp() -> None:
    """Each part is rescaled by itself, so entries need not add up; masses do, and every map is non-negative."""
    model, x = make("plain").double(), pictures(3).double()

    def explain(hook: Any) -> relprop.Explanation:
        return relprop.explain(model, x, contrast=None, hooks={"features.3": hook})

    parts = [explain(keep(slice(k, k + 1))) for k in range(8)]
    seen = Seen()
    whole = explain(seen)
    shares = seen.last[0].sum((2, 3))
    for k, part in enumerate(parts):
        torch.testing.assert_close(part.relevance.sum((1, 2, 3)), shares[:, k])
        torch.testing.assert_close(part.conservation.masses[-1, 0], shares[:, k])
        assert float(part.relevance.min()) >= 0
    total = sum(part.relevance for part in parts)
    torch.testing.assert_close(total.sum((1, 2, 3)), whole.relevance.sum((1, 2, 3)))
    assert models.cosine(total, whole.relevance) >= 0.9


def test_relevance_of_attention_heads() -> None:
    model, x = make("transformer").double(), pictures(3).double()
    heads: dict[str, Tensor] = {}

    def per_head(info: NodeInfo, relevance: Tensor) -> None:
        heads[info.path] = relevance.sum((3, 4))  # (S, B, heads, tokens, width)

    hooks = {"blocks_?_matmul_1": per_head}  # attention times values; the plan names the operations
    e = relprop.explain(model, x, layers=["blocks.?.proj"], hooks=hooks)
    for block in ("blocks.0", "blocks.1"):
        assert heads[block].shape == (2, 3, 2)
        assert float(heads[block].min()) >= 0
        found = heads[block].sum(2)
        torch.testing.assert_close(found[0] - found[1], e.layers[f"{block}.proj"].sum((1, 2)))
        assert float(heads[block].min(2).values.max()) > 0  # more than one head has some


def test_relevance_of_attention_heads_of_a_timm_model() -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=CLASSES)
        model = models.settled(model, pictures(4, 32))
    heads: dict[str, Tensor] = {}

    def per_head(info: NodeInfo, relevance: Tensor) -> None:
        heads[info.path] = relevance.sum((3, 4))

    e = relprop.explain(
        model,
        pictures(2, 32),
        contrast=None,
        layers=["blocks.*.attn"],
        hooks={"blocks_*_attn_matmul_1": per_head},
    )
    assert sorted(heads) == ["blocks.0.attn", "blocks.1.attn"]
    for path, found in heads.items():
        assert found.shape == (1, 2, 3)
        torch.testing.assert_close(found.sum(2)[0], e.layers[path].sum((1, 2)), atol=1e-6, rtol=1e-5)


def test_top_channels_of_a_layer() -> None:
    """The three channels with most relevance, and the map of these alone."""
    model, x = make("plain").double(), pictures(2).double()
    seen = Seen()
    relprop.explain(model, x, contrast=None, hooks={"features.3": seen})
    channels = seen.last[0].sum((2, 3))
    top = channels.topk(3).indices

    def only_top(info: NodeInfo, relevance: Tensor) -> Tensor:
        mask = torch.zeros_like(channels).scatter(1, top, 1.0)
        return relevance * mask[:, :, None, None]

    e = relprop.explain(model, x, contrast=None, hooks={"features.3": only_top}, layers=["features.3"])
    torch.testing.assert_close(e.relevance.sum((1, 2, 3)), channels.gather(1, top).sum(1))
    left = e.layers["features.3"].sum((2, 3))
    assert torch.equal(left.nonzero()[:, 1].reshape(2, 3), top.sort(1).values)
    assert float(left.min()) >= 0
    assert bool((left[left > 0].reshape(2, 3).min(1).values >= channels.where(left == 0, 0.0).amax(1)).all())
