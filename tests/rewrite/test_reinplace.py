"""Relevance that is overwritten where nobody else reads it: no number anywhere is another for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import relprop
import rule_registry
from relprop.rewrite import buffers, step
from relprop.rewrite.buffers import add_
from relprop.rewrite.step import Step
from rule_registry import Call, Relevances
from tests.helpers.models import KINDS, make, pictures, seeded
from tests.helpers.programs import running

aten = torch.ops.aten


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be overwritten."""
    for module in (buffers, step):
        monkeypatch.setattr(module, "can_overwrite", lambda value: False)


class Branches(nn.Module):
    """Paths that part, meet, and share what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.left, self.right = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.stem(x)))
        left, right = self.left(h), self.right(h)
        gated = left * torch.sigmoid(right) + h
        both = torch.cat([gated, left - right, h.flip(-1), gated * gated], 1)
        return self.head(both.transpose(1, 2).mean((1, 3)))


def overwriting_steps(program: nn.Module) -> list[Step]:
    return [module for module in program.modules() if isinstance(module, Step) and module.overwrites]


def explained(model: nn.Module, x: Tensor, **options: Any) -> list[Tensor]:
    found = relprop.explain(model, x, **options)
    return pytree.tree_leaves([found.relevance, found.layers, found.conservation.masses, found.output])


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "branches": (lambda: seeded(Branches), pictures),
    **{kind: (lambda kind=kind: make(kind), inputs) for kind, (_, inputs) in KINDS.items()},  # type: ignore[misc]
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one seed": {"contrast": None},
    "every layer": {"layers": ["*"]},
    "a hook": {"hooks": {"*": lambda info, relevance: None}},
    "a hook that turns signs": {"hooks": {"*": lambda info, relevance: relevance * relevance.sign().roll(1, -1)}},
    "other rules": {"rules": "gradient"},
}


@pytest.mark.sweep(every=30)
@pytest.mark.parametrize(
    ("kind", "setting"),
    [(kind, setting) for i, kind in enumerate(MODELS) for j, setting in enumerate(OPTIONS) if (i + j) % 2 == 0],
)
def test_nothing_tells_what_was_overwritten(kind: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model under every second setting, and each setting on every second model."""
    build, inputs = MODELS[kind]
    options = OPTIONS[setting]
    model, x = build(), inputs(3)
    if "hooks" in options and kind.startswith("encoder"):
        options = {"hooks": {"layer.linear1": options["hooks"]["*"]}}
    overwritten, given = explained(model, x, **options), x.clone()
    apart(monkeypatch)
    for found, expected in zip(overwritten, explained(model, x, **options), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(x, given)


def test_most_steps_overwrite_what_arrives() -> None:
    program = running(relprop.Explainer(seeded(Branches)), pictures(2))
    steps_ = [module for module in program.modules() if isinstance(module, Step) and not module.rule.moves]
    # not the seeds, nor the parts of a concatenation, which are views of one relevance
    assert {str(step.site.op) for step in steps_ if not step.overwrites} == {
        "aten.linear.default", "aten.sub.Tensor", "aten.mul.Tensor"
    }  # fmt: skip
    assert any(node.target is add_ for node in program.graph.nodes)
    gradient = running(relprop.Explainer(seeded(Branches), rules="gradient"), pictures(2))
    assert not overwriting_steps(gradient)


def test_what_a_hook_or_a_layer_keeps_stays_as_it_was() -> None:
    model, x, seen = seeded(Branches), pictures(2), []

    def keep(info: relprop.HookInfo, relevance: Tensor) -> None:
        seen.append((relevance, relevance.clone()))

    relprop.explain(model, x, hooks={"stem": keep, "norm": keep, "left": keep, "right": keep})
    assert len(seen) == 4
    assert all(torch.equal(relevance, then) for relevance, then in seen)


class Recorder(fx.Interpreter):
    """Keeps what every node of a program returns, and a copy of it."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program, garbage_collect_values=False)
        self.kept: dict[str, tuple[Any, Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.kept[n.name] = value, pytree.tree_map_only(Tensor, Tensor.clone, value)
        return value


def test_who_reads_a_program_finds_every_relevance_as_it_was() -> None:
    model, x = seeded(Branches), pictures(2)
    explainer = relprop.Explainer(model)
    explainer(x)
    recorder = Recorder(explainer.program(x))
    with torch.no_grad():
        recorder.run(x, None)
    assert sum(name.startswith("relevance_") for name in recorder.kept) > 10
    for value, then in recorder.kept.values():
        for one, other in zip(pytree.tree_leaves(value), pytree.tree_leaves(then), strict=True):
            assert one is other or torch.equal(one, other)


def twice(call: Call, relevance: Tensor) -> Relevances:
    """A rule that asks another one twice, as mixtures of rules do."""
    rule = rule_registry.get("abslrp").table[call.site.op]
    first, second = rule(call, relevance), rule(call, relevance)
    return rule_registry.share(call, *(a + b for a, b in zip(first.values, second.values, strict=True)))


def the_same_for_all(call: Call, relevance: Tensor) -> Relevances:
    """A rule whose relevances are one tensor, and the one that arrived."""
    return [relevance] * len(call.inputs)


def an_activation(call: Call, relevance: Tensor) -> Relevances:
    """A rule that calls what went in relevance."""
    return call.input.unsqueeze(0)


def a_detached_activation(call: Call, relevance: Tensor) -> Relevances:
    """The same, where no tensor tells that it is a view."""
    return call.input.detach()[None].detach()


@pytest.mark.sweep(every=7)
@pytest.mark.parametrize(
    ("rule", "op"),
    [(twice, aten.conv2d.default), (twice, aten.linear.default), (the_same_for_all, aten.sub.Tensor),
     (the_same_for_all, aten.mul.Tensor), (an_activation, aten.relu.default), (an_activation, aten.flip.default),
     (a_detached_activation, aten.relu.default)],
)  # fmt: skip
def test_rules_of_ones_own_need_not_know(
    rule: Callable[..., Relevances], op: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = rule_registry.get("abslrp").derive({op: rule})
    model, x = seeded(Branches), pictures(2)
    options = {"rules": rules, "contrast": None, "layers": ["stem", "norm", "left"]}
    overwritten, given = explained(model, x, **options), x.clone()
    apart(monkeypatch)
    for found, expected in zip(overwritten, explained(model, x, **options), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(x, given)


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("shares", [True, False])
def test_what_a_rule_keeps_is_not_overwritten(shares: bool) -> None:
    kept: list[Tensor] = []

    def the_same_every_time(call: Call, relevance: Tensor) -> Relevances:
        if not kept:
            kept.append(torch.rand(len(relevance), *call.input.shape))
        return rule_registry.share(call, kept[0]) if shares else kept[0]

    rules = rule_registry.get("abslrp").derive({aten.relu.default: the_same_every_time})
    model, x = seeded(Branches), pictures(2)
    first = explained(model, x, rules=rules)
    before = kept[0].clone()
    for found, expected in zip(explained(model, x, rules=rules), first, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(kept[0], before)


def test_a_rule_may_hand_on_a_parameter_of_the_model() -> None:
    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prior, self.head = nn.Parameter(torch.rand(12)), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(x * self.prior))

    model = Weighed().eval()

    def by_the_prior(call: Call, relevance: Tensor) -> Relevances:
        return rule_registry.share(call, model.prior.expand(len(relevance), *call.input.shape))

    before = model.prior.detach().clone()
    rules = rule_registry.get("abslrp").derive({aten.tanh.default: by_the_prior})
    relprop.explain(model, torch.rand(1, 12), rules=rules, contrast=None)
    assert torch.equal(model.prior, before)


def test_mass_is_counted_before_a_rule_overwrites_it() -> None:
    def halves(call: Call, relevance: Tensor) -> Relevances:
        half = rule_registry.call.times(call, relevance, torch.tensor(0.5))
        return [half, half.clone()]

    rule = rule_registry.Rule("halves", halves, overwrites=True)
    rules = rule_registry.get("abslrp").derive({aten.add.Tensor: rule})
    e = relprop.explain(seeded(Branches), pictures(2), rules=rules)
    (cut,) = (cut for cut in e.conservation.cuts if cut.rule == "halves")
    torch.testing.assert_close(cut.factor, torch.ones_like(cut.factor))


def test_under_inference_mode_the_same_comes_out() -> None:
    model, x = seeded(Branches), pictures(2)
    expected = explained(model, x)
    with torch.inference_mode():
        found = explained(model, x.clone())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def rules_with(op: Any, function: Callable[..., Relevances]) -> rule_registry.RuleSet:
    """Return absLRP but for one operation, whose rule says that it keeps nothing."""
    return rule_registry.get("abslrp").derive({op: rule_registry.Rule("own", function, overwrites=True)})


def signs(call: Call, relevance: Tensor) -> Relevances:
    return rule_registry.share(call, (call.input > 0).expand(len(relevance), *call.input.shape).clone())


def counts(call: Call, relevance: Tensor) -> Relevances:
    return rule_registry.share(call, (call.input > 0).long().expand(len(relevance), *call.input.shape).clone())


def single(call: Call, relevance: Tensor) -> Relevances:
    return rule_registry.share(call, (relevance * call.input.abs()).float())


def inference(call: Call, relevance: Tensor) -> Relevances:
    with torch.inference_mode():
        return rule_registry.share(call, relevance * call.input.abs())


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("rule", [signs, counts, single, inference])
def test_results_that_cannot_hold_a_product_are_not_overwritten(rule: Callable[..., Relevances]) -> None:
    model, x = seeded(Branches).double(), pictures(2).double()
    found = relprop.explain(model, x, rules=rules_with(aten.sigmoid.default, rule), contrast=None)
    assert found.relevance.dtype == torch.float64
    torch.testing.assert_close(found.relevance.sum((1, 2, 3)), torch.ones(2).double())


def test_masses_that_are_the_values_are_recorded_as_they_were() -> None:
    class Numbers(nn.Module):
        """An activation of one number a sample."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(1, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.conv(x).relu().mean((1, 2, 3)) + 2.0).sigmoid()[:, None])

    def itself(call: Call, relevance: Tensor) -> Relevances:
        value = relevance * call.input.abs()
        return rule_registry.Shares((value,), (value,), value)

    e = relprop.explain(seeded(Numbers), torch.rand(2, 3, 6, 6), rules=rules_with(aten.add.Tensor, itself))
    (cut,) = (cut for cut in e.conservation.cuts if cut.rule == "own")
    assert e.conservation.error < 1e-5
    torch.testing.assert_close(cut.mass, torch.ones_like(cut.mass))


def test_a_rule_that_forgets_a_seed_is_told() -> None:
    rules = rules_with(aten.sigmoid.default, lambda call, relevance: relevance[:1])
    with pytest.raises(relprop.RelpropError, match=r"shapes \[\(1, 2, 6, 8, 8\)\] where .* are \[\(2, 2, 6, 8, 8\)\]"):
        relprop.explain(seeded(Branches), pictures(2), rules=rules)


def test_memory_shared_through_numpy_is_shared() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a(x).relu() + self.b(x).relu())

    def both(call: Call, relevance: Tensor) -> Relevances:
        held = relevance.clone().numpy()
        return [torch.from_numpy(held), torch.from_numpy(held)]

    def each(call: Call, relevance: Tensor) -> Relevances:
        return [relevance.clone(), relevance.clone()]

    model, x = seeded(Halves), torch.randn(2, 12)
    found, expected = (
        relprop.explain(model, x, rules=rules_with(aten.add.Tensor, rule)).relevance for rule in (both, each)
    )
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("own_registry")
def test_a_move_of_ones_own_may_keep_what_it_returns() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(144, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).i0().flatten(1).relu() * 1.5)

    kept = torch.rand(2, 2, 4, 6, 6)
    before = kept.clone()
    rule_registry.register("structural", aten.i0.default, rule=lambda call, relevance: kept)
    relprop.explain(seeded(Waves), torch.randn(2, 3, 6, 6))
    assert torch.equal(kept, before)
