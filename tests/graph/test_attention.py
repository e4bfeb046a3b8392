"""Which operations are attention: models of every spelling, and what looks like attention and is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from tests.helpers.attention import CausalModel
from tests.helpers.models import CLASSES, Encoder, Heads, Lambda, pictures, seeded, sequences

aten = torch.ops.aten


def sites(model: nn.Module, x: Tensor) -> dict[str, rule_registry.Site]:
    return {node.name: site for node, site in relprop.Explainer(model).plan(x).sites.items()}


def weighted(found: dict[str, rule_registry.Site], attention: bool) -> list[str]:
    """Paths of the layers with a weight that are, or are not, inside attention."""
    layers = (
        site
        for site in found.values()
        if rule_registry.weights_of(site.op) and (len(site.active) == 1 or "weight" in map(str, site.active))
    )
    return [site.path for site in layers if site.attention == attention]


def products(found: dict[str, rule_registry.Site], attention: bool) -> int:
    """How many products of two activations there are, in attention or elsewhere."""
    multiplies = (aten.matmul.default, aten.bmm.default, aten.mul.Tensor)
    return sum(s.op in multiplies and len(s.active) == 2 and s.attention == attention for s in found.values())


def softmaxes(found: dict[str, rule_registry.Site]) -> list[bool]:
    return [site.attention for site in found.values() if site.op == aten.softmax.int]


def vision(name: str, **settings: Any) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES, **settings).eval()


SMALL = {"img_size": 32, "depth": 1, "embed_dim": 12, "num_heads": 2}
SWIN = {"img_size": 16, "window_size": 4, "patch_size": 2, "depths": (2,), "num_heads": (2,), "embed_dim": 8}
MLP = ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]

VISION: dict[str, tuple[Callable[[], nn.Module], int, list[str], list[str]]] = {
    # model, size of its pictures, layers inside of attention, layers outside
    "vit": (
        lambda: vision("vit_tiny_patch16_224", **SMALL), 32,
        ["blocks.0.attn.qkv", "blocks.0.attn.proj"], ["patch_embed.proj", *MLP, "head"],
    ),
    "deit, distilled": (
        lambda: vision("deit_tiny_distilled_patch16_224", **SMALL), 32,
        ["blocks.0.attn.qkv", "blocks.0.attn.proj"], ["patch_embed.proj", *MLP, "head", "head_dist"],
    ),
    "norms of queries and keys, pooling by a learned query": (
        lambda: vision("vit_tiny_patch16_224", **SMALL, qk_norm=True, global_pool="map", class_token=False), 32,
        ["blocks.0.attn.qkv", "blocks.0.attn.proj", "attn_pool.kv", "attn_pool", "attn_pool.proj"],
        ["patch_embed.proj", *MLP, "attn_pool.mlp.fc1", "attn_pool.mlp.fc2", "head"],
    ),
    "swin": (
        lambda: vision("swin_tiny_patch4_window7_224", **SWIN), 16,
        [f"layers.0.blocks.{k}.attn.{part}" for k in range(2) for part in ("qkv", "proj")],
        ["patch_embed.proj", *(f"layers.0.blocks.{k}.mlp.fc{n}" for k in range(2) for n in (1, 2)), "head.fc"],
    ),
    "swin 2, whose queries and keys are normed by hand": (
        lambda: vision("swinv2_tiny_window8_256", **SWIN), 16,
        [f"layers.0.blocks.{k}.attn{part}" for k in range(2) for part in ("", ".proj")],
        ["patch_embed.proj", *(f"layers.0.blocks.{k}.mlp.fc{n}" for k in range(2) for n in (1, 2)), "head.fc"],
    ),
    "convnext": (
        lambda: vision("convnext_atto", depths=(1, 1, 1, 1), dims=(4, 4, 4, 4)), 32,
        [], ["stem.0", *(f"stages.{k}.downsample.1" for k in range(1, 4)), "head.fc",
             *(f"stages.{k}.blocks.0.{part}" for k in range(4) for part in ("conv_dw", "mlp.fc1", "mlp.fc2"))],
    ),
}  # fmt: skip


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize("case", VISION.values(), ids=VISION.keys())
def test_vision(case: Any) -> None:
    build, size, inside, outside = case
    found = sites(seeded(build), pictures(2, size))
    assert sorted(weighted(found, True)) == sorted(inside)
    assert sorted(weighted(found, False)) == sorted(outside)
    assert all(softmaxes(found))
    assert products(found, False) == 0


@pytest.mark.full
def test_talking_heads() -> None:
    found = sites(seeded(lambda: vision("cait_xxs24_224", **SMALL)), pictures(2, 32))
    parts = [path for path in weighted(found, True) if path.startswith("blocks.0.")]
    assert parts == [f"blocks.0.attn.{part}" for part in ("qkv", "proj_l", "proj_w", "proj")]
    assert all(".mlp." in path or path in ("patch_embed.proj", "head") for path in weighted(found, False))
    assert products(found, False) == 0


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("fused", [True, False])
def test_however_it_is_spelled(fused: bool) -> None:
    model = seeded(lambda: vision("vit_tiny_patch16_224", **SMALL))
    attention = [module for module in model.modules() if hasattr(module, "fused_attn")]
    assert attention
    for module in attention:
        module.fused_attn = fused
    found = sites(model, pictures(2, 32))
    assert weighted(found, True) == ["blocks.0.attn.qkv", "blocks.0.attn.proj"]
    assert softmaxes(found) == [True]
    weights = [site.attention_weights for site in found.values() if site.attention_weights is not None]
    assert list(map(str, weights)) == ["self"]


@pytest.mark.full
@pytest.mark.parametrize("build", [lambda: Heads(True), lambda: Heads(False, True), Encoder, lambda: Encoder(True)])
def test_modules_of_torch(build: Callable[[], nn.Module]) -> None:
    found = sites(seeded(build), sequences(2))
    inside = weighted(found, True)
    assert len(inside) == 2
    assert all(path.endswith(("attention", "self_attn", "out_proj")) for path in inside)
    assert products(found, True) == 2
    assert not any(path.endswith(("attention", "self_attn")) for path in weighted(found, False))


@pytest.mark.full
@pytest.mark.parametrize("normed", [False, True])
def test_causal_model(normed: bool) -> None:
    """Rotary embeddings are sums of what one layer made; grouped keys and values are repeated."""
    found = sites(seeded(lambda: CausalModel(normed)), torch.randn(2, 5, 16))
    assert weighted(found, True) == [f"blocks.{k}.{name}" for k in range(2) for name in ("q", "k", "v", "proj")]
    outside = [f"blocks.{k}.{name}" for k in range(2) for name in ("gate", "up", "down")]
    assert weighted(found, False) == [*outside, "head"]
    assert (products(found, True), products(found, False)) == (4, 2)  # the gated layers are no attention


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "GPT2"])
def test_language_models_of_transformers(name: str) -> None:
    """Also Qwen3, whose queries and keys have norms that are written out by hand."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if name == "GPT2":
        config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=4, vocab_size=11, n_positions=8)
        made = transformers.GPT2LMHeadModel
        inside = ["attn.c_attn", "attn.c_proj"]
    else:
        config = getattr(transformers, f"{name}Config")(
            hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=11, head_dim=4,
        )  # fmt: skip
        made = getattr(transformers, f"{name}ForCausalLM")
        inside = [f"self_attn.{part}_proj" for part in "qkvo"]

    def build() -> nn.Module:
        return Lambda(lambda self, x: self.model(inputs_embeds=x, use_cache=False).logits[:, -1], model=made(config))

    found = sites(seeded(build), torch.randn(2, 5, 16))
    assert [".".join(path.split(".")[-2:]) for path in weighted(found, True)] == inside
    assert all(".mlp." in path or path.endswith("lm_head") for path in weighted(found, False))
    assert products(found, True) == 2


def model(function: Callable[..., Tensor], **layers: nn.Module) -> dict[str, rule_registry.Site]:
    return sites(seeded(lambda: Lambda(function, **layers)), torch.randn(2, 6, 8))


def test_gates_are_no_attention() -> None:
    """Squeeze-excite, and gated linear units."""
    found = model(
        lambda self, x: self.head((x * self.gate(x.mean(1, keepdim=True)).sigmoid() * F.silu(self.up(x))).mean(1)),
        gate=nn.Linear(8, 8), up=nn.Linear(8, 8), head=nn.Linear(8, CLASSES),
    )  # fmt: skip
    assert not any(site.attention for site in found.values())


def test_class_probabilities_are_no_attention() -> None:
    """A softmax that nothing is multiplied with, though a product of two activations feeds it."""
    found = model(
        lambda self, x: (self.a(x[:, :5]) @ self.b(x[:, 5:]).transpose(1, 2))[..., 0].softmax(1),
        a=nn.Linear(8, 8), b=nn.Linear(8, 8),
    )  # fmt: skip
    assert not any(site.attention for site in found.values())
    assert products(found, False) == 1


def test_sums_of_several_layers_and_functions_lie_outside() -> None:
    """What an activation function or a residual sum is between is no query; the values' layer is inside."""
    found = model(
        lambda self, x: self.head(
            (
                (F.relu(self.q(x)) @ (self.k(x) + self.k2(x)).transpose(1, 2)).softmax(-1)
                @ (self.v(x) * 2 + 1)
            ).mean(1)
        ),
        **{name: nn.Linear(8, 8) for name in ("q", "k", "k2", "v")}, head=nn.Linear(8, CLASSES),
    )  # fmt: skip
    assert weighted(found, True) == ["v"]
    assert weighted(found, False) == ["q", "k", "k2", "head"]
    assert products(found, True) == 2


def test_norms_by_hand_and_renormalised_attention() -> None:
    """A norm written out lies between; so does the division of attention by its sum."""

    def attend(self: Any, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + 1e-5) * self.gain
        k = (k - k.mean(-1, keepdim=True)) / (k.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        attention = (q @ k.transpose(1, 2)).softmax(-1)
        attention = attention / (attention.sum(1, keepdim=True) + 1e-6)
        return self.head(self.proj((attention @ v).mean(1)))

    found = model(
        attend, qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), head=nn.Linear(8, CLASSES), gain=nn.Parameter(torch.ones(8))
    )
    assert "qkv" in weighted(found, True)
    marked = [site for site in found.values() if site.attention_weights is not None]
    assert len(marked) == 1
    assert softmaxes(found) == [True]


def test_positions_that_depend_on_queries_and_a_soft_cap() -> None:
    """Products feed the softmax through sums and functions."""

    def attend(self: Any, x: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in (self.q, self.k, self.v))
        logits = 30 * torch.tanh((q @ k.transpose(1, 2) + q @ self.positions) / 30)
        return self.head((logits.softmax(-1) @ v).sum(1) + x.sum(1))

    found = model(
        attend, positions=nn.Parameter(torch.randn(8, 6)), head=nn.Linear(8, CLASSES),
        **{name: nn.Linear(8, 8) for name in ("q", "k", "v")},
    )  # fmt: skip
    assert {"q", "k", "v"} <= set(weighted(found, True))
    assert weighted(found, False) == ["head"]


@pytest.mark.full
def test_a_rule_inside_attention_alone() -> None:
    """The selector on a model: relevance of a derived set stops inside attention and nowhere else."""
    blocked = rule_registry.get("epsilon").derive(
        {rule_registry.select(op=aten.linear.default, attention=True): rule_registry.blocks}
    )
    plan = relprop.Explainer(seeded(Encoder), rules=blocked).plan(sequences(2))
    stopped = {site.path for node, site in plan.sites.items() if str(plan.assigned[node]) == "blocks"}
    assert stopped
    assert all("self_attn" in path for path in stopped)
    assert "attention inside" in str(blocked)
