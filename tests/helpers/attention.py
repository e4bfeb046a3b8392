"""Transformers over operations that can be replaced by those of another library, as functions of these."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _call(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


PLAIN = SimpleNamespace(
    dense=_call,  # a layer outside of attention
    projection=_call,  # one inside
    convolution=_call,
    norm=_call,
    root_mean_square=_call,
    gelu=F.gelu,
    silu=F.silu,
    add=torch.add,
    scale=torch.mul,
    multiply=torch.mul,
    logits=torch.matmul,
    softmax=torch.softmax,
    attend=torch.matmul,
)
"""The operations as torch has them."""


class VisionTransformer(nn.Module):
    """Two blocks, a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 5, 16))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(16),
                    "qkv": nn.Linear(16, 48),
                    "proj": nn.Linear(16, 16),
                    "norm2": nn.LayerNorm(16),
                    "fc1": nn.Linear(16, 32),
                    "fc2": nn.Linear(32, 16),
                }
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        randomise_norms(self)

    def forward(self, x: Tensor, ops: Any = PLAIN) -> Tensor:
        x = ops.convolution(self.embed, x).flatten(2).transpose(1, 2)
        x = ops.add(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1), self.position)
        for block in self.blocks:
            qkv = ops.projection(block.qkv, ops.norm(block.norm1, x))
            q, k, v = qkv.unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            attention = ops.softmax(ops.logits(ops.scale(q, 8**-0.5), k.transpose(2, 3)), -1)
            x = ops.add(x, ops.projection(block.proj, ops.attend(attention, v).transpose(1, 2).flatten(2)))
            x = ops.add(x, ops.dense(block.fc2, ops.gelu(ops.dense(block.fc1, ops.norm(block.norm2, x)))))
        return ops.dense(self.head, ops.norm(self.norm, x)[:, 0])


WIDTH, HEADS, GROUPS, LENGTH = 16, 4, 2, 5
EACH = WIDTH // HEADS


class CausalModel(nn.Module):
    """Two blocks of a causal language model: rotary embeddings, grouped queries, RMS norm and gated layers.

    From embedded tokens ``(B, 5, 16)`` to the scores of the next one. With ``normed`` queries and keys have norms.
    """

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.normed = normed
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.RMSNorm(WIDTH, 1e-5),
                    "q": nn.Linear(WIDTH, WIDTH, bias=False),
                    "k": nn.Linear(WIDTH, GROUPS * EACH, bias=False),
                    "v": nn.Linear(WIDTH, GROUPS * EACH, bias=False),
                    "q_norm": nn.RMSNorm(EACH, 1e-5),
                    "k_norm": nn.RMSNorm(EACH, 1e-5),
                    "proj": nn.Linear(WIDTH, WIDTH, bias=False),
                    "norm2": nn.RMSNorm(WIDTH, 1e-5),
                    "gate": nn.Linear(WIDTH, 24, bias=False),
                    "up": nn.Linear(WIDTH, 24, bias=False),
                    "down": nn.Linear(24, WIDTH, bias=False),
                }
            )
            for _ in range(2)
        )
        self.norm = nn.RMSNorm(WIDTH, 1e-5)
        self.head = nn.Linear(WIDTH, 7, bias=False)
        angles = torch.arange(LENGTH)[:, None] * 10.0 ** -torch.arange(EACH // 2).repeat(2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("later", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1))
        randomise_norms(self)

    def forward(self, x: Tensor, ops: Any = PLAIN) -> Tensor:
        for block in self.blocks:
            normed = ops.root_mean_square(block.norm1, x)
            q, k, v = (ops.projection(block[name], normed).unflatten(2, (-1, EACH)).transpose(1, 2) for name in "qkv")
            if self.normed:
                q, k = ops.root_mean_square(block.q_norm, q), ops.root_mean_square(block.k_norm, k)
            q, k = self._turned(q, ops), self._turned(k, ops)
            k, v = (t.repeat_interleave(HEADS // GROUPS, 1) for t in (k, v))
            logits = ops.scale(ops.logits(q, k.transpose(2, 3)), EACH**-0.5)
            attention = ops.softmax(logits.masked_fill(self.later, -torch.inf), -1)
            x = ops.add(x, ops.projection(block.proj, ops.attend(attention, v).transpose(1, 2).flatten(2)))
            normed = ops.root_mean_square(block.norm2, x)
            gated = ops.multiply(ops.silu(ops.dense(block.gate, normed)), ops.dense(block.up, normed))
            x = ops.add(x, ops.dense(block.down, gated))
        return ops.dense(self.head, ops.root_mean_square(self.norm, x)[:, -1])

    def _turned(self, x: Tensor, ops: Any) -> Tensor:
        """Rotary position embedding: a sum of two terms that the same layer made."""
        first, second = x.chunk(2, -1)
        return ops.add(ops.scale(x, self.cos), ops.scale(torch.cat([ops.scale(second, -1.0), first], -1), self.sin))


def randomise_norms(model: nn.Module) -> None:
    """Give norms gains and shifts, lest a test compare ones and zeros."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
