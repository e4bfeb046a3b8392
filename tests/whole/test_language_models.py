"""Language models of transformers: the relevance of a prompt's tokens for the next one is LXT's."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop.run.auto_batch import Meter
from tests.helpers.models import distance

transformers = pytest.importorskip("transformers", reason='pip install "relprop[zoo]"')

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,  # two heads share keys and values
    "attn_implementation": "eager",
}
MODELS = {
    "llama": ("Llama", {**SMALL, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {**SMALL, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "attn_implementation": "eager"}),
}
RULES = rule_registry.get("attnlrp", conv_gamma=0.0, dense_gamma=0.0, epsilon=0.0, stabilizer=0.0)


def build(name: str) -> nn.Module:
    title, config = MODELS[name]
    kind = f"{title}LMHeadModel" if name == "gpt2" else f"{title}ForCausalLM"
    config = getattr(transformers, f"{title}Config")(**config, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config).double().eval().requires_grad_(False)
        for parameter in model.parameters():  # fresh ones are so small that all attention is even
            parameter.mul_(5) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def prompts(length: int = 7, batch: int = 3) -> Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(0))


def explain(model: nn.Module, tokens: Tensor) -> relprop.Explanation:
    return relprop.explain(model, tokens, rules=RULES, output="logits", target=lambda logits: logits[:, -1].amax(1))


def patch_as_lxt(name: str, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the modules of a model LXT's own backward functions, by the map that LXT has for it."""
    pytest.importorskip("lxt", reason="LXT is not installed (the extra peers)")
    from benchmarks.peers.adapters import _lxt

    patches, modeling = _lxt(), import_module(f"transformers.models.{name}.modeling_{name}")
    monkeypatch.setattr(
        modeling, "eager_attention_forward", patches.wrap_attention_forward(modeling.eager_attention_forward)
    )
    identity = import_module("lxt.efficient.rules").identity_rule_implicit

    def gpt2_mlp(self: Any, x: Tensor) -> Tensor:  # theirs is in a module that needs transformers below version 5
        return self.c_proj(identity(self.act, self.c_fc(x)))

    for module in model.modules():
        kind = type(module).__name__
        if kind == "LayerNorm":
            monkeypatch.setattr(module, "forward", patches.layer_norm_forward.__get__(module))
        elif kind.endswith("RMSNorm"):
            monkeypatch.setattr(module, "forward", patches.rms_norm_forward.__get__(module))
        elif kind.endswith("MLP"):
            forward = gpt2_mlp if name == "gpt2" else patches.gated_mlp_forward
            monkeypatch.setattr(module, "forward", forward.__get__(module))


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_tokens_have_the_relevance_that_lxt_gives_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = build(name), prompts()
    e = explain(model, tokens)
    assert e.looked_up == ("x",)
    patch_as_lxt(name, model, monkeypatch)
    source = model.get_input_embeddings()(tokens).detach().requires_grad_()  # type: ignore[operator]
    chosen = model(inputs_embeds=source, use_cache=False).logits[:, -1].amax(1)
    torch.testing.assert_close(chosen.detach(), e.output.reshape(-1))
    (gradient,) = torch.autograd.grad(chosen.sum(), source)
    assert distance(e.relevance, (gradient * source).sum(-1).detach()) <= 1e-5
    words = e.tokens([f"token {k}" for k in range(50)]).words
    assert words[2] == [f"token {k}" for k in tokens[2].tolist()]


@pytest.mark.full
def test_memory_grows_no_faster_than_the_attention_matrix() -> None:
    """From a prompt to one of twice its length by four at most: that of the matrices of tokens by tokens."""
    model, peaks = build("llama"), []
    for length in (32, 64):
        tokens = prompts(length, 1)
        explain(model, tokens)
        with Meter() as meter:
            explain(model, tokens)
        peaks.append(meter.peak)
    assert all(after <= 4 * before for before, after in pairwise(peaks)), peaks
