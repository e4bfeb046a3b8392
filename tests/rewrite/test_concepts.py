"""Maps of channels: what flows through each alone, against hooks, autograd and zennit-crp."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.errors import CaptureError, HookError, TargetError
from tests.helpers.hooks import keep, stop
from tests.helpers.models import Lambda, Text, distance, doubled, kept, pictures, seeded

CASES = [
    ("plain", "features.3", 1, "epsilon-plus"),
    ("plain", "features.3", 1, "abslrp"),
    ("convolutional", "project", 1, "epsilon"),
    ("transformer", "blocks.0.mlp.0", 2, "attnlrp"),
    ("transformer", "blocks.1", 2, "input-times-gradient"),
]


@cache
def exact(kind: str) -> nn.Module:
    return doubled(kept(kind))


def mapped(model: nn.Module, x: Tensor, concepts: Any, **options: Any) -> relprop.Explanation:
    return relprop.explain(model, x, concepts=concepts, **options)


@pytest.mark.parametrize(("kind", "layer", "axis", "rules"), CASES)
@pytest.mark.sweep(every=6)
def test_a_map_is_what_flows_through_the_channel_alone(kind: str, layer: str, axis: int, rules: str) -> None:
    """A hook that lets one channel through lets pass what flows by other ways, too: that is subtracted."""
    model, x = exact(kind), pictures(3).double()
    e = mapped(model, x, {layer: [1, 3]}, rules=rules, layers=[layer])
    past = relprop.explain(model, x, rules=rules, hooks={layer: stop}).relevance
    found = e.concepts[layer]
    for place, channel in enumerate((1, 3)):
        hook = keep(slice(channel, channel + 1), axis + 1)
        masked = relprop.explain(model, x, rules=rules, hooks={layer: hook}).relevance
        assert distance(found.relevance[place], masked - past) <= 1e-12
    at_layer = e.layers[layer]
    assert isinstance(at_layer, Tensor)
    by_channel = at_layer.movedim(axis, 1).flatten(2).sum(2) if at_layer.ndim > 2 else at_layer
    torch.testing.assert_close(found.share, by_channel[:, [1, 3]])
    top = mapped(model, x, {layer: "top3"}, rules=rules).concepts[layer]
    assert torch.equal(top.channels, by_channel.topk(3).indices)


def test_the_rest_of_the_explanation_is_as_without() -> None:
    model, x = exact("convolutional"), pictures(3).double()
    options: dict[str, Any] = {"layers": ["stem", "project"]}
    plain, e = relprop.explain(model, x, **options), mapped(model, x, {"project": "top2", "stem": [0]}, **options)
    torch.testing.assert_close(e.relevance, plain.relevance)
    torch.testing.assert_close(e.seeds["x"], plain.seeds["x"])
    for layer in ("stem", "project"):
        torch.testing.assert_close(e.layers[layer], plain.layers[layer])
    assert len(e.conservation.cuts) == len(plain.conservation.cuts)
    torch.testing.assert_close(e.conservation.masses, plain.conservation.masses)


def test_autograd_finds_the_same_gradient_through_a_channel() -> None:
    model, x = exact("plain"), pictures(3).double()
    e = mapped(model, x, {"features.3": [0, 7]}, rules="gradient", contrast=None, target=2)
    for place, channel in enumerate((0, 7)):
        mask = torch.zeros(8, dtype=torch.double).index_fill(0, torch.tensor([channel]), 1)[:, None, None]

        def alone(module: nn.Module, given: Any, output: Tensor, mask: Tensor = mask) -> None:
            output.register_hook(lambda gradient: gradient * mask)

        handle = model.get_submodule("features.3").register_forward_hook(alone)
        given = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(model(given)[:, 2].sum(), given)
        handle.remove()
        assert distance(e.concepts["features.3"].relevance[place], expected) <= 1e-12


def test_zennit_crp_draws_the_same_maps_and_ranks_channels_alike() -> None:
    attribution = pytest.importorskip("crp.attribution", reason="pip install --no-deps zennit-crp")
    from crp.concepts import ChannelConcept
    from zennit.composites import EpsilonPlus

    model, x, targets = exact("plain"), pictures(3).double(), [1, 2, 4]
    e = mapped(model, x, {"features.3": "top3"}, rules="epsilon-plus", contrast=None, target=targets)
    found, attribute = e.concepts["features.3"], attribution.CondAttribution(model)
    for k, target in enumerate(targets):

        def theirs(conditions: list[dict[str, list[int]]], k: int = k) -> Any:
            given = x[k : k + 1].clone().requires_grad_()
            return attribute(given, conditions, EpsilonPlus(), record_layer=["features.3"])

        whole = theirs([{"y": [target]}]).relevances["features.3"]
        best = ChannelConcept().attribute(whole, abs_norm=False)[0].argsort(descending=True)[:3]
        assert torch.equal(found.channels[k], best)
        maps = theirs([{"y": [target], "features.3": [int(channel)]} for channel in best]).heatmap
        # Theirs start with an output of one, too.
        assert distance(found.relevance[:, k].sum(1), maps) <= 1e-6


def test_several_layers_and_channels_of_each_sample_in_chunks() -> None:
    """Layers that follow each other, and one in a branch, in one pass; each sample has channels of its own."""
    model, x = exact("convolutional"), pictures(5).double()
    own = torch.arange(10).reshape(5, 2) % 8
    together: dict[str, Any] = {"project": own, "stem": "top2", "gate": [2]}
    e = mapped(model, x, together, rules="epsilon", batch_size=2)
    for layer, channels in together.items():
        alone = mapped(model, x, {layer: channels}, rules="epsilon").concepts[layer]
        torch.testing.assert_close(e.concepts[layer].relevance, alone.relevance)
        assert torch.equal(e.concepts[layer].channels, alone.channels)
    second = mapped(model, x[1:2], {"project": own[1:2]}, rules="epsilon").concepts["project"]
    torch.testing.assert_close(e[1].concepts["project"].relevance, second.relevance)
    torch.testing.assert_close(e[1].concepts["project"].share, second.share)


@pytest.mark.parametrize("contrast", [None, 3, [3, 2, 1], "rest", "log-odds"])
@pytest.mark.sweep(every=2)
def test_every_contrast(contrast: Any) -> None:
    model, x = exact("plain"), pictures(3).double()
    e = mapped(model, x, {"features.3": list(range(8))}, target=[0, 1, 2], contrast=contrast)
    torch.testing.assert_close(e.concepts["features.3"].relevance.sum((0, 2, 3, 4)), e.relevance.sum((1, 2, 3)))
    plain = relprop.explain(model, x, target=[0, 1, 2], contrast=contrast)
    torch.testing.assert_close(e.relevance, plain.relevance)


def test_tokens_that_look_values_up_have_maps_of_channels() -> None:
    model = doubled(seeded(Text))
    tokens = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))
    e = mapped(model, tokens, {"hidden": list(range(8))}, rules="epsilon", contrast=None)
    assert e.concepts["hidden"].relevance.shape == (8, 3, 6)
    torch.testing.assert_close(e.concepts["hidden"].relevance.sum(0), e.relevance)


def test_channels_last_are_found_before_a_norm_and_behind_a_mean() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.mix(x.permute(0, 2, 3, 1))
        return m.head(m.norm(m.act(y) * 2).mean((1, 2)))

    members = {"mix": nn.Linear(3, 8), "act": nn.GELU(), "norm": nn.LayerNorm(8), "head": nn.Linear(8, 4)}
    model = seeded(lambda: Lambda(forward, **members))
    for layer in ("act", "norm"):
        e = mapped(model, pictures(2), {layer: "top8"}, contrast=None, layers=[layer])
        assert e.concepts[layer].channels.shape == (2, 8)
        torch.testing.assert_close(e.concepts[layer].share.sum(1), e.layers[layer].sum((1, 2, 3)))  # type: ignore[union-attr]


def test_archives_hold_the_maps(tmp_path: Any) -> None:
    e = mapped(kept("plain"), pictures(2), {"features.3": [4, 2]})
    e.save(tmp_path / "e.npz")
    held = np.load(tmp_path / "e.npz")
    assert held["concepts:features.3"].shape == (2, 2, 3, 8, 8)
    assert held["channels:features.3"].tolist() == [[4, 2], [4, 2]]


@pytest.mark.parametrize(
    ("concepts", "error", "words"),
    [
        ({"features.9": [1]}, CaptureError, "no module matches"),
        ({"features.3": [1, 8]}, TargetError, "channel 8 is out of range: there are channels 0 to 7"),
        ({"features.3": "top9"}, TargetError, '"top1" to "top8"'),
        ({"features.3": "best"}, TargetError, "not 'best'"),
        ({"features.3": []}, TargetError, "whole numbers of channels"),
        ({"features.3": [0.5]}, TargetError, "whole numbers of channels"),
        ({"features.3": torch.zeros(3, 2, dtype=torch.long)}, TargetError, "of each of 2 samples"),
        ({"features.3": [1], "features.?": [1]}, CaptureError, "name each layer once"),
    ],
)
def test_what_names_no_channels_is_refused(concepts: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mapped(kept("plain"), pictures(2), concepts)


def test_a_module_that_is_called_twice_and_hooks_are_refused() -> None:
    with pytest.raises(CaptureError, match="'branch' is called 2 times"):
        mapped(kept("convolutional"), pictures(2), {"branch": [1]})
    with pytest.raises(HookError, match="one after the other"):
        mapped(kept("plain"), pictures(2), {"features.3": [1]}, hooks={"features.1": stop})
    with pytest.raises(CaptureError, match="between the source and the target"):
        mapped(kept("plain"), pictures(2), {"features.0": [1]}, at="features.3")
