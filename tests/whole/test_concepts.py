"""Worked examples of hooks: concepts, attention heads, and the top channels of a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import relprop
from relprop import NodeInfo
from tests.helpers import models
from tests.helpers.hooks import Seen, keep, stop
from tests.helpers.models import CLASSES, make, pictures

LINEAR = ("gradient", "epsilon", "lrp-0", "input-times-gradient")


@pytest.mark.parametrize("rules", LINEAR)
@pytest.mark.parametrize("contrast", [None, "rest"])
@pytest.mark.full
def test_maps_of_complementary_concepts_add_up(rules: str, contrast: Any) -> None:
    model, x = make("convolutional").double(), pictures(3).double()

    def explain(hook: Any) -> Tensor:
        return relprop.explain(model, x, rules=rules, contrast=contrast, hooks={"project": hook}).relevance

    parts = [explain(keep(channels)) for channels in (slice(0, 2), slice(2, 3), slice(3, None))]
    assert all(part.any() for part in parts)
    # What flows past the layer, through the branch beside it, is in every part.
    whole, past = relprop.explain(model, x, rules=rules, contrast=contrast).relevance, explain(stop)
    torch.testing.assert_close(sum(part - past for part in parts) + past, whole, rtol=1e-8, atol=1e-10)


@pytest.mark.full
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


@pytest.mark.full
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


@pytest.mark.full
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
