"""Conservation: mass at every cut, losses counted, and rules that delete relevance caught."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop import Explanation
from relprop.run.conservation import Conservation
from rule_registry import Call, Rule, Shares, select, share
from tests.helpers.models import CLASSES, KINDS, Lambda, kept, make, pictures, seeded

aten = torch.ops.aten


@pytest.mark.sweep(every=12)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("contrast", [None, "rest"])
def test_every_cut_has_the_mass_of_the_output(kind: str, contrast: Any) -> None:
    e = relprop.explain(kept(kind), KINDS[kind][1](3), contrast=contrast)
    c = e.conservation
    assert c.conserves
    assert len(c.cuts) > 3
    assert c.masses.shape == (len(c.cuts), 1 if contrast is None else 2, 3)
    assert c.error <= 1e-5
    assert c.suspects == ()
    mass = torch.stack([seed.flatten(1).sum(1) for seed in next(iter(e.seeds.values()))])
    torch.testing.assert_close(mass, 1 - sum(cut.lost for cut in c.cuts), atol=1e-5, rtol=0)


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("kind", ["plain", "transformer"])
def test_float64_is_as_exact_as_float64(kind: str) -> None:
    assert relprop.explain(make(kind).double(), pictures(2).double()).conservation.error <= 1e-12


def test_losses_are_counted_where_all_contributions_are_negative() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[2].weight.abs_().neg_()
    c = relprop.explain(model, torch.rand(3, 8), contrast=None, target=1).conservation
    assert c.error <= 1e-5
    assert c.lost == 1.0
    (cut,) = c.losses
    assert (cut.name, cut.path, cut.operation) == ("_2", "2", "aten.linear.default")
    assert "lost 1.0e+00 of the mass" in str(c)
    assert "lost 1.0e+00 at _2 (aten.linear.default)" in str(c)
    assert not c.suspects


def test_loss_in_some_samples_and_seeds_only() -> None:
    head = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4, [1.0] * 4]))
    model = Lambda(lambda m, x: m.head(x), head=head).eval()
    x = torch.tensor([[1.0, 2, 3, 4], [-1.0, -2, -3, -4]])
    e = relprop.explain(model, x, target=0)
    assert e.conservation.lost == 1.0
    (cut,) = e.conservation.losses
    # The target loses all in the second sample, the rest nowhere: one of its two classes is always positive.
    assert cut.lost.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert e.seeds["x"][0, 1].abs().sum() == 0
    assert e.conservation.error <= 1e-6


def test_what_falls_on_constants_goes_to_the_activations() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(torch.cat([x, m.token.expand(x.shape[0], -1)], 1))

    model = seeded(lambda: Lambda(forward, token=nn.Parameter(torch.ones(1, 4)), head=nn.Linear(12, CLASSES)))
    e = relprop.explain(model, torch.randn(3, 8), contrast=None)
    torch.testing.assert_close(e.relevance.sum(1), torch.ones(3))
    assert e.conservation.lost == 0


def _derived(where: Any, rule: Any) -> Any:
    return rule_registry.get("abslrp").derive({where: rule})


def suspicious(kind: str, where: Any, rule: Any) -> Conservation:
    return relprop.explain(kept(kind), KINDS[kind][1](3), rules=_derived(where, rule)).conservation


class TestDeletingRules:
    """Each deletes relevance in another way; the report must name the place."""

    def test_one_that_rescaling_hides(self) -> None:
        def faint(call: Call, relevance: Tensor) -> Shares:
            honest = rule_registry.get("abslrp").table[call.site.op](call, relevance)
            assert isinstance(honest, Shares)
            return Shares(tuple(v * 1e-3 for v in honest.values), tuple(m * 1e-3 for m in honest.masses), honest.total)

        c = suspicious("convolutional", select(op=aten.conv2d.default, path="project"), faint)
        assert c.error <= 1e-5
        assert [cut.path for cut in c.suspects] == ["project"]
        assert "suspect: project (aten.conv2d.default): its positive contributions" in str(c) or (
            "suspect: project (aten.conv2d.default): it handed on" in str(c)
        )

    def test_one_that_zeroes_most_channels(self) -> None:
        def half(call: Call, relevance: Tensor) -> Shares:
            honest = rule_registry.get("abslrp").table[call.site.op](call, relevance)
            assert isinstance(honest, Shares)
            value = honest.values[0].clone()
            value[:, :, 1:] = 0
            return share(call, value, net=2 * honest.masses[0] - honest.total)

        c = suspicious("convolutional", select(op=aten.conv2d.default, path="project"), half)
        assert c.error <= 1e-5
        assert [cut.path for cut in c.suspects] == ["project"]

    @pytest.mark.parametrize("several", [False, True], ids=["one-input", "tuple-of-one"])
    def test_one_that_moves_and_drops(self, several: bool) -> None:
        def drops(call: Call, relevance: Tensor) -> Any:
            moved = relevance.reshape(relevance.shape[0], *call.input.shape).clone()
            moved[..., 0] = 0
            return (moved,) if several else moved

        c = suspicious("transformer", select(op=aten.reshape.default, path=""), drops)
        assert c.error > 1e-2
        # Moves are not weighed one by one: what is missing shows at the next operation towards the source.
        assert "the mass deviates from patches (aten.conv2d.default) on" in str(c)

    def test_one_that_drops_everything(self) -> None:
        c = suspicious("plain", aten.relu.default, lambda call, relevance: torch.zeros_like(relevance))
        assert c.error == pytest.approx(1.0)
        assert "the mass deviates from" in str(c)

    @pytest.mark.parametrize("branch", [0, 1])
    def test_a_residual_sum_that_forgets_a_branch(self, branch: int) -> None:
        def forgetful(call: Call, relevance: Tensor) -> Shares:
            honest = rule_registry.get("abslrp").table[call.site.op](call, relevance)
            assert isinstance(honest, Shares)
            values = [v * (k != branch) for k, v in enumerate(honest.values)]
            return share(call, *values, total=honest.total)

        c = suspicious("convolutional", aten.add.Tensor, forgetful)
        assert c.error <= 1e-5  # rescaling hides it
        assert len(c.suspects) == 2
        assert all(cut.operation == "aten.add.Tensor" for cut in c.suspects)
        assert all(f"input {branch} of 2 received nothing" in cut.suspect for cut in c.suspects)
        assert str(c).count("suspect: add") == 2

    def test_a_sum_that_passes_all_to_one_branch_unscaled(self) -> None:
        def first(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
            return relevance, torch.zeros_like(relevance)

        c = suspicious("convolutional", aten.add.Tensor, first)
        assert c.suspects
        assert all("received nothing" in cut.suspect for cut in c.suspects)

    def test_declared_blocks_count_as_loss(self) -> None:
        c = suspicious("plain", select(op=aten.relu.default, path="features.4"), rule_registry.blocks)
        assert c.error <= 1e-5
        assert c.lost == pytest.approx(1.0)
        assert float(c.masses[-1].abs().max()) <= 1e-5
        assert "at features_4 (aten.relu.default)" in str(c)

    def test_a_rule_of_the_wrong_shape_is_an_error(self) -> None:
        with pytest.raises(relprop.RuleError, match=r"rule flat returned .* of aten\.linear\.default in head\.2"):
            suspicious("plain", aten.linear.default, Rule("flat", lambda call, relevance: relevance))


def test_gradient_is_not_meant_to_conserve() -> None:
    c = relprop.explain(kept("plain"), pictures(2), rules="gradient").conservation
    assert not c.conserves
    assert c.cuts == ()
    assert c.lost == 0
    assert "does not conserve" in str(c)


def test_a_part_that_nobody_reads_is_not_suspicious() -> None:
    """In the last block of some transformers only the class token is read of what was joined."""
    model = seeded(
        lambda: Lambda(
            lambda m, x: m.head(torch.cat([m.token(x), m.rest(x)], 1)[:, :4]),
            token=nn.Linear(6, 4),
            rest=nn.Linear(6, 8),
            head=nn.Linear(4, CLASSES),
        )
    )
    c = relprop.explain(model, torch.randn(2, 6)).conservation
    assert {cut.operation for cut in c.cuts} >= {"aten.cat.default"}
    assert c.suspects == ()


@pytest.mark.full
def test_a_quotient_that_is_never_negative_gives_its_denominator_nothing() -> None:
    """As in response norms, and in attention that is normalised again."""

    def divided(m: Lambda, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(m.conv(x), dim=(2, 3))
        return m.head(norm / (norm.mean(1, keepdim=True) + 1e-6))

    model = seeded(lambda: Lambda(divided, conv=nn.Conv2d(3, 6, 3), head=nn.Linear(6, CLASSES)))
    c = relprop.explain(model, pictures(2)).conservation
    assert {cut.operation for cut in c.cuts} >= {"aten.div.Tensor"}
    assert c.suspects == ()

    def forgets(call: Call, relevance: Tensor) -> Shares:
        honest = rule_registry.get("abslrp").table[call.site.op](call, relevance)
        assert isinstance(honest, Shares)
        return share(call, honest.values[0], torch.zeros_like(honest.values[1]), total=honest.total)

    def signed(m: Lambda, x: Tensor) -> Tensor:
        return m.head(m.conv(x).mean((2, 3)) / (m.conv(x).amax((2, 3)) + 5))

    model = seeded(lambda: Lambda(signed, conv=nn.Conv2d(3, 6, 3), head=nn.Linear(6, CLASSES)))
    c = relprop.explain(model, pictures(2), rules=_derived(torch.ops.aten.div.Tensor, forgets)).conservation
    assert [cut.operation for cut in c.suspects] == ["aten.div.Tensor"], "where it may be negative both receive"


@pytest.mark.parametrize("kind", ["the input", "stretched"])
def test_rescaling_leaves_what_a_rule_only_borrowed(kind: str) -> None:
    """Rescaling happens in place where a tensor is the rule's own, and activations are not."""

    def borrowing(call: Call, relevance: Tensor) -> Shares:
        value = {
            "the input": lambda: call.input.expand_as(relevance),
            "stretched": lambda: relevance.new_ones(1).expand_as(relevance),
        }[kind]()
        return share(call, value)

    model = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 5)))
    x, layers = torch.randn(3, 6, dtype=torch.float64), ["1", "2", "3"]

    def explained(rule: Any) -> Explanation:
        rules = _derived(select(path="3"), rule)
        return relprop.explain(model.double(), x, rules=rules, layers=layers)

    found = explained(borrowing)
    expected = explained(lambda call, relevance: share(call, borrowing(call, relevance).values[0].clone()))
    torch.testing.assert_close(found.relevance, expected.relevance)
    for layer in layers:
        torch.testing.assert_close(found.layers[layer], expected.layers[layer])
    torch.testing.assert_close(found.output, model(x))
