"""The randomisation check: a map that knows nothing of later layers shows it, and one that does falls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import relprop
import rule_registry
from relprop.verification.randomize import RandomizationError, randomize, randomized_copies, weight_groups
from relprop.verification.similarity import Randomization, Similarity, similarity
from rule_registry import Call

aten = torch.ops.aten


class Tied(nn.Module):
    """Two convolutions, a tied dense layer that is called twice, and attention whose weights lie in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 1))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.dense = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.dense.weight
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.again(self.dense(tokens).relu()).relu().mean(1))


def convolutions() -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (3, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 6))


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 6))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_gradient_falls_and_a_map_of_the_input_alone_stays(x: Tensor) -> None:
    model = seeded(convolutions)
    falls = randomize(model, x, rules="gradient")
    assert (falls.layers, list(falls.depths)) == (3, [1, 2, 3])
    assert all(found.means[0] < 0.5 for found in falls.depths.values())
    assert "the map depends on the weights" in falls.reading

    def of_the_input(call: Call, relevance: Tensor) -> Tensor:
        """Hand back the first convolution's own input, whatever arrives."""
        return call.input.expand(len(relevance), *call.input.shape).clone()

    first = rule_registry.select(op=aten.conv2d.default, layer="first")
    blind = rule_registry.get("gradient").derive({first: of_the_input}, name="blind")
    stays = randomize(model, x, rules=blind)
    assert all(found.means == (pytest.approx(1), pytest.approx(1)) for found in stays.depths.values())
    assert stays.other_class is not None
    assert stays.other_class.means[0] == pytest.approx(1)
    assert "explains nothing" in stays.reading
    assert "another class" in stays.reading


@pytest.mark.full
def test_a_map_that_leaves_out_the_last_layer_says_so(x: Tensor) -> None:
    def flat(call: Call, relevance: Tensor) -> Tensor:
        return torch.ones_like(call.input).expand(len(relevance), *call.input.shape).clone()

    rules = rule_registry.get("gradient").derive({aten.linear.default: flat}, name="headless")
    found = randomize(seeded(convolutions), x, rules=rules)
    assert found.depths[1].means[0] == pytest.approx(1)
    assert found.depths[2].means[0] < 0.5
    assert "does not depend on the last layer" in found.reading


@pytest.mark.full
def test_layers_are_counted_from_the_output_and_shared_weights_once(x: Tensor) -> None:
    model = seeded(Tied)
    plan = relprop.Explainer(model).plan(x)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [[names[id(tensor)] for tensor in group] for group in weight_groups(plan)] == [
        ["stem.0.weight", "stem.0.bias"],
        ["stem.3.weight", "stem.3.bias"],
        ["attention.in_proj_weight", "attention.in_proj_bias"],
        ["attention.out_proj.weight", "attention.out_proj.bias"],
        ["dense.bias"],
        ["dense.weight", "again.bias"],
        ["head.weight", "head.bias"],
    ]


@pytest.mark.full
def test_the_model_is_untouched_and_what_is_drawn_has_its_distribution(x: Tensor) -> None:
    model = seeded(Tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objects = {name: id(value) for name, value in model.named_parameters()}
    plan = relprop.Explainer(model).plan(x)
    copies = randomized_copies(model, plan, [1, 6])
    assert {name: id(value) for name, value in model.named_parameters()} == objects
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    one, six = (dict(copies[depth].named_parameters()) for depth in (1, 6))
    changed = {name for name, value in one.items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert torch.equal(one["head.weight"], six["head.weight"])
    assert torch.equal(six["head.weight"].flatten().sort().values, before["head.weight"].flatten().sort().values)
    assert one["stem.0.weight"] is model.stem[0].weight  # type: ignore[index, union-attr]
    assert not torch.equal(six["attention.in_proj_weight"], before["attention.in_proj_weight"])
    assert copies[6].again.weight is copies[6].dense.weight
    again = randomized_copies(model, plan, [1])[1]
    other = randomized_copies(model, plan, [1], seed=1)[1]
    assert torch.equal(again.head.weight, one["head.weight"])  # type: ignore[union-attr, arg-type]
    assert not torch.equal(other.head.weight, one["head.weight"])  # type: ignore[union-attr, arg-type]


def test_similarity_agrees_with_scipy_and_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 9, (3, 200), generator=generator).double() for _ in range(2))
    found = similarity(a, b)
    for sample, (rank, cosine) in enumerate(zip(found.spearman, found.cosine, strict=True)):
        assert rank == pytest.approx(stats.spearmanr(a[sample].numpy(), b[sample].numpy()).statistic)
        assert cosine == pytest.approx(float(torch.cosine_similarity(a[sample], b[sample], dim=0)))
    flat, zero = torch.ones(1, 4), torch.zeros(1, 4)
    assert similarity(flat, flat).means == (1, pytest.approx(1))
    assert all(map(math.isnan, (*similarity(zero, zero).means, similarity(flat, torch.arange(4.0)[None]).spearman[0])))
    assert Similarity((math.nan, 0.25, 0.75), (math.nan,) * 3).means[0] == 0.5


@pytest.mark.full
@pytest.mark.parametrize("contrast", [None, "rest", 0])
def test_another_class_is_neither_the_target_nor_the_contrast(x: Tensor, contrast: object) -> None:
    model = seeded(dense)
    found = randomize(model, x, target=1, rules="gradient", contrast=contrast)  # type: ignore[arg-type]
    assert found.other_class is not None
    excluded = [1] if not isinstance(contrast, int) else [1, 0]
    output = model(x).detach()
    output[:, excluded] = -math.inf
    maps = [
        relprop.explain(model, x, target=t, rules="gradient", contrast=contrast).relevance.sum(1).abs().flatten(1)  # type: ignore[arg-type]
        for t in (1, output.argmax(1))
    ]
    assert found.other_class.spearman == pytest.approx(similarity(*maps).spearman)


@pytest.mark.full
def test_no_class_to_compare_with(x: Tensor) -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    assert randomize(model, x, contrast="rest").other_class is None
    assert randomize(model, x, contrast=None).other_class is not None
    function = randomize(model, x, target=lambda output: output.sum(1), rules="gradient")
    assert function.other_class is None
    assert "another class" not in str(function)


@pytest.mark.full
def test_exported_programs_and_models_without_weights(x: Tensor) -> None:
    model = seeded(dense)
    program = torch.export.export(model, (x,), dynamic_shapes=[{0: torch.export.Dim("batch")}])
    assert randomize(program, x, rules="gradient").depths == randomize(model, x, rules="gradient").depths
    with pytest.raises(RandomizationError, match="nothing to draw anew"):
        randomize(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), x)


def test_printed_and_as_json() -> None:
    found = Randomization(
        "Net", "abslrp", "rest", 2, {1: Similarity((0.5,), (0.25,)), 2: Similarity((-0.1,), (math.nan,))},
        Similarity((0.95,), (0.99,)),
    )  # fmt: skip
    assert str(found).splitlines() == [
        "Net under abslrp, contrast rest: similarity with the map as it is",
        "weights drawn anew           rank correlation  cosine",
        "last 1 of 2                             0.500   0.250",
        "last 2 of 2                            -0.100     nan",
        "none, map of another class              0.950   0.990",
        f"reading: {found.reading}",
    ]
    assert "nearly the same for another class (Sixt et al. 2020)" in found.reading
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["depths"] == [
        {"layers": 1, "spearman": 0.5, "cosine": 0.25},
        {"layers": 2, "spearman": -0.1, "cosine": None},
    ]
