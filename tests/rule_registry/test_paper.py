"""Each rule of ``abslrp-paper`` against DESIGN 4.5 by autograd: a module, its absolute twin, and the core of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn import functional as F

import relprop
import rule_registry
from relprop.rewrite.step import Step
from rule_registry import BatchAxis, Site, Slot

aten = torch.ops.aten
Function = Callable[..., Tensor]
EPSILON = 1e-9
BATCH = 3


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def core(function: Function, twin: Function, inputs: Sequence[Tensor], relevance: Tensor) -> list[Tensor]:
    """Relevance of each input, of one seed, samples along axis 0 of all; an input that is no activation comes last."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    h = function(*inputs)
    both = h + twin(*inputs)
    s = relevance * torch.where(h < 0, -1.0, 1.0) / (h + (h == 0) * EPSILON)
    found = [torch.zeros_like(x) for x in inputs]
    for sample in range(BATCH):
        for sign in (1, -1):
            part = torch.zeros_like(s)
            part[sample] = sign * (sign * s[sample]).clamp(min=0)
            mass = (sign * relevance[sample]).clamp(min=0).sum()
            slopes = torch.autograd.grad(both, inputs, part.detach(), retain_graph=True)
            raw = [(x * slope).detach() for x, slope in zip(inputs, slopes, strict=True)]
            sums = torch.stack([r.sum() for r in raw])
            shares = sums / sums.sum() if len(raw) > 1 else [1.0]
            for k, r in enumerate(raw):
                found[k] += mass * shares[k] * r / (r.abs().sum() + EPSILON)
    return found


def by_rule(
    op: OpOverload,
    args: Sequence[object],
    active: Sequence[str | Slot],
    relevance: Tensor | tuple[Tensor | None, ...],
    path: str = "path",
    input_axis: int = 0,
) -> list[Tensor]:
    slots = tuple(Slot(name) if isinstance(name, str) else name for name in active)
    output = op(*args)
    front = BatchAxis(0)
    marks = tuple(front for _ in output) if isinstance(output, list | tuple) else front
    site = Site(op, path, "Module", slots, (False,) * len(slots), (BatchAxis(input_axis),) * len(slots), marks)
    rules = rule_registry.get("abslrp-paper")
    rule = rules.find(site)
    assert rule is not None
    step = Step(site, rule, "here", rules.mass_of(rule))
    leading = tuple(r if r is None else r[None] for r in relevance) if isinstance(relevance, tuple) else relevance[None]
    *values, record = step(leading, output, *args)
    assert record is None
    return [value[0] for value in values]


def agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(found) <= len(expected)
    for ours, theirs in zip(found, expected, strict=False):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def absolute(function: Function) -> Function:
    """The twin of sums and products: the same of magnitudes."""
    return lambda *inputs: function(*(x.abs() for x in inputs))


def magnitude(function: Function) -> Function:
    """The twin of activation functions, maxima and moves: the magnitude of the output."""
    return lambda *inputs: function(*inputs).abs()


def held_softmax(x: Tensor) -> Tensor:
    powers = (x - x.amax(-1, keepdim=True).detach()).exp()
    return powers / powers.sum(-1, keepdim=True).detach()


def test_linear_and_convolution() -> None:
    x, w, b = draw(BATCH, 5), draw(4, 5), draw(4)
    expected = core(
        lambda x: F.linear(x, w, b), lambda x: F.linear(x.abs(), w.abs(), b.abs()), [x], r := draw(BATCH, 4)
    )
    agree(by_rule(aten.linear.default, (x, w, b), ["input"], r), expected)
    x, w, b = draw(BATCH, 2, 6, 6), draw(4, 2, 3, 3), draw(4)
    expected = core(
        lambda x: F.conv2d(x, w, b, 2, 1),
        lambda x: F.conv2d(x.abs(), w.abs(), b.abs(), 2, 1),
        [x],
        r := draw(BATCH, 4, 3, 3),
    )
    agree(by_rule(aten.conv2d.default, (x, w, b, [2, 2], [1, 1]), ["input"], r), expected)


def test_queries_keys_and_values_are_three_layers() -> None:
    x, w, b, r = draw(BATCH, 2, 4), draw(12, 4), draw(12), draw(BATCH, 2, 12)
    expected = torch.zeros_like(x)
    for k in range(3):
        rows = slice(4 * k, 4 * k + 4)
        layer = [w[rows], b[rows]]
        magnitudes = [p.abs() for p in layer]
        expected += core(
            lambda x, layer=layer: F.linear(x, *layer),
            lambda x, magnitudes=magnitudes: F.linear(x.abs(), *magnitudes),
            [x],
            r[..., rows],
        )[0]
    agree(by_rule(aten.linear.default, (x, w, b), ["input"], r, "blocks.0.attn.qkv"), [expected])
    (one,) = by_rule(aten.linear.default, (x, w, b), ["input"], r)
    assert not torch.allclose(one, expected, rtol=1e-2)


def test_sums_and_products_share_by_the_sums_of_their_contributions() -> None:
    a, b, r = draw(BATCH, 4, 5), draw(BATCH, 4, 5), draw(BATCH, 4, 5)
    expected = core(torch.add, absolute(torch.add), [a, b], r)
    agree(by_rule(aten.add.Tensor, (a, b), ["self", "other"], r), expected)
    expected = core(torch.mul, absolute(torch.mul), [a, b], r)
    agree(by_rule(aten.mul.Tensor, (a, b), ["self", "other"], r), expected)
    expected = core(torch.matmul, absolute(torch.matmul), [a, b.transpose(1, 2)], r := draw(BATCH, 4, 4))
    agree(by_rule(aten.matmul.default, (a, b.transpose(1, 2)), ["self", "other"], r), expected)


def test_the_share_of_a_position_embedding_is_lost() -> None:
    a, constant, r = draw(BATCH, 4, 5), draw(1, 4, 5), draw(BATCH, 4, 5)
    expected = core(torch.add, absolute(torch.add), [a, constant.expand(BATCH, -1, -1)], r)
    (found,) = by_rule(aten.add.Tensor, (a, constant), ["self"], r)
    agree([found], expected[:1])
    assert float(found.clamp(min=0).sum()) < 0.9 * float(r.clamp(min=0).sum())
    assert torch.equal(by_rule(aten.mul.Tensor, (a, 0.25), ["self"], r)[0], r)


@pytest.mark.parametrize(
    ("op", "rest", "function", "twin"),
    [
        (aten.relu.default, (), F.relu, F.relu),
        (aten.hardtanh.default, (0.0, 0.5), lambda x: F.hardtanh(x, 0.0, 0.5), lambda x: F.hardtanh(x, 0.0, 0.5)),
        (aten.softmax.int, (-1,), held_softmax, held_softmax),
        (aten.gelu.default, (), F.gelu, magnitude(F.gelu)),
        (aten.max_pool2d.default, ([2, 2],), lambda x: F.max_pool2d(x, 2), magnitude(lambda x: F.max_pool2d(x, 2))),
        (aten.avg_pool2d.default, ([2, 2],), lambda x: F.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x.abs(), 2)),
        (aten.mean.dim, ([1],), lambda x: x.mean(1), lambda x: x.abs().mean(1)),
        (aten.select.int, (1, 0), lambda x: x[:, 0], magnitude(lambda x: x[:, 0])),
    ],
    ids=lambda value: str(value) if isinstance(value, OpOverload) else "",
)
def test_functions_of_one_input(op: OpOverload, rest: tuple[object, ...], function: Function, twin: Function) -> None:
    x = draw(BATCH, 3, 4, 4)
    r = draw(*function(x).shape)
    name = op._schema.arguments[0].name
    agree(by_rule(op, (x, *rest), [name], r), core(function, twin, [x], r))


def test_masked_attention_has_relevance_where_it_is_open() -> None:
    x = draw(BATCH, 2, 4, 4)
    masked = x.masked_fill(torch.ones(4, 4).triu(1).bool(), -math.inf)
    (found,) = by_rule(aten.softmax.int, (masked, -1), ["self"], draw(BATCH, 2, 4, 4))
    assert found.isfinite().all()
    assert found.triu(1).eq(0).all()
    assert found.any()


def test_layer_norm() -> None:
    x, w, b, r = draw(BATCH, 4, 6), draw(6), draw(6), draw(BATCH, 4, 6)

    def normalised(x: Tensor) -> Tensor:
        held = x.detach()
        return (x - held.mean(-1, keepdim=True)) / (held.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    expected = core(lambda x: normalised(x) * w + b, lambda x: normalised(x).abs() * w.abs() + b.abs(), [x], r)
    agree(by_rule(aten.layer_norm.default, (x, [6], w, b, 1e-6), ["input"], r), expected)


def test_batch_norm_has_two_steps() -> None:
    x, r, w, b, mean, variance = draw(BATCH, 2, 3, 3), draw(BATCH, 2, 3, 3), *draw(4, 2, 1, 1)
    variance, deviation = variance.square(), (variance.square() + 1e-5).sqrt()
    inner = (x - mean) / deviation
    (second,) = core(lambda h: h * w + b, lambda h: h.abs() * w.abs() + b.abs(), [inner], r)
    expected = core(lambda x: (x - mean) / deviation, lambda x: (x.abs() - mean.abs()) / deviation, [x], second)
    args = (x, *(p.flatten() for p in (w, b, mean, variance)), 0.1, 1e-5)
    agree(by_rule(aten._native_batch_norm_legit_no_training.default, args, ["input"], (r, None, None)), expected)


def test_moves_that_are_modules_lose_what_lies_at_negative_entries() -> None:
    x, r = draw(BATCH, 2, 6), draw(BATCH, 12)
    expected = core(lambda x: x.flatten(1), magnitude(lambda x: x.flatten(1)), [x], r)
    for path in ("blocks.1.attn", "patch_embed"):
        agree(by_rule(aten.reshape.default, (x, [BATCH, 12]), ["self"], r, path), expected)
    assert torch.equal(by_rule(aten.reshape.default, (x, [BATCH, 12]), ["self"], r, "head")[0], r.reshape(x.shape))
    x, parts = draw(3, BATCH, 4), draw(3, BATCH, 4)
    (found,) = by_rule(aten.unbind.int, (x,), ["self"], tuple(parts), "blocks.1.attn", input_axis=1)
    for k in range(3):
        agree([found[k]], core(lambda part: 1 * part, torch.abs, [x[k]], parts[k]))


def test_the_class_token_gets_nothing() -> None:
    token, patches, r = draw(BATCH, 1, 4), draw(BATCH, 5, 4), draw(BATCH, 6, 4)
    kept = (r[:, 1:] * (patches > 0)).flatten(1)
    expected = torch.zeros_like(kept)
    for part in (lambda t: t.clamp(min=0), lambda t: t.clamp(max=0)):
        expected += part(kept) * (part(r.flatten(1)).sum(1) / part(kept).sum(1))[:, None]
    (found,) = by_rule(aten.cat.default, ([token, patches], 1), [Slot("tensors", 1)], r)
    agree([found], [expected.reshape(patches.shape)])


# The seeds, and what maps are divided by


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def network() -> nn.Module:
    return Network().double().eval()


def masses(maps: Tensor) -> Tensor:
    return maps.abs().flatten(-3).sum(-1)


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("contrast", ["rest", None, 3])
def test_the_map_of_each_seed_has_norm_one(contrast: str | int | None) -> None:
    model, x = network(), draw(BATCH, 2, 6, 6)
    found = relprop.explain(model, x, target=0, rules="abslrp-paper", contrast=contrast)
    seeds = found.seeds["x"]
    torch.testing.assert_close(masses(seeds), torch.ones(1 if contrast is None else 2, BATCH, dtype=torch.float64))
    assert torch.equal(found.relevance, seeds[0] if contrast is None else seeds[0] - seeds[1])


def test_maps_of_layers_are_divided_alike() -> None:
    found = relprop.explain(network(), draw(BATCH, 2, 6, 6), rules="abslrp-paper", contrast=None, layers=["layers.2"])
    torch.testing.assert_close(masses(found.layers["layers.2"]), torch.ones(BATCH, dtype=torch.float64))


def test_maps_of_zeros_stay_zeros() -> None:
    x = torch.cat([torch.zeros(1, 2, 6, 6).double(), draw(1, 2, 6, 6)])
    for rules in ("abslrp-paper", "abslrp-released"):
        found = relprop.explain(network(), x, rules=rules)
        assert not found.relevance[0].any()
        assert found.relevance[1].any()


def test_a_signed_seed_is_target_and_rest_in_one_pass(tmp_path) -> None:
    model, x = network(), draw(BATCH, 2, 6, 6)
    rules = rule_registry.get("abslrp-paper", seed="signed")
    arrived = []

    def hook(info: object, relevance: Tensor) -> None:
        arrived.append((info, relevance))

    found = relprop.explain(model, x, target=1, rules=rules, hooks={"layers.4": hook})
    (info, seed), *_ = arrived
    assert info.seeds == ("target minus rest",)
    expected = torch.full((1, BATCH, 5), -1 / 5, dtype=torch.float64)
    expected[..., 1] = 1
    torch.testing.assert_close(seed, expected)
    assert found.contrast == "rest"
    assert found.seeds["x"].shape[0] == 1
    assert not torch.allclose(masses(found.relevance), torch.ones(BATCH, dtype=torch.float64))
    found.save(tmp_path / "map.npz")
    for contrast in (None, 3):
        one, two = (relprop.explain(model, x, target=1, rules=r, contrast=contrast) for r in (rules, "abslrp-paper"))
        assert torch.equal(one.relevance, two.relevance)


def test_the_seed_is_a_parameter_that_is_a_word() -> None:
    assert rule_registry.get("abslrp-paper").parameters == {"seed": "one"}
    rules = rule_registry.get("abslrp-paper", seed="signed")
    assert rules.seed == rules.parameters["seed"] == "signed"
    assert "parameters seed=signed; seed signed" in rules.describe()
    with pytest.raises(ValueError, match="the parameter 'seed' must be 'one' or 'signed', not 'output'"):
        rule_registry.get("abslrp-paper", seed="output")
    with pytest.raises(TypeError, match="'delta' must be a number"):
        rule_registry.get("abslrp", delta="signed")


@pytest.mark.usefixtures("own_registry")
def test_choices_of_a_rule_set() -> None:
    rule_registry.define("open", "…", base="abslrp-paper")
    assert rule_registry.get("open", seed="signed").seed == "signed"
    rule_registry.define("settled", "…", base="abslrp-paper", seed="signed")
    assert rule_registry.get("settled").seed == "signed"
    with pytest.raises(TypeError, match="it accepts: none"):
        rule_registry.get("settled", seed=1.0)
    with pytest.raises(TypeError, match=r"no setting \['loudness'\]"):
        rule_registry.define("mine", "…", choices={"loudness": ("low", "high")})
    with pytest.raises(ValueError, match='seed "one", "output" or "signed"'):
        rule_registry.define("mine", "…", choices={"seed": ("one", "two")})
    with pytest.raises(ValueError, match='normalize "largest", "l1" or None'):
        rule_registry.define("mine", "…", normalize="l2")
