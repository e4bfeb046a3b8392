"""Small models of every kind, and an initialisation under which no test compares zeros."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5
Model = TypeVar("Model", bound=nn.Module)


class Lambda(nn.Module):
    """A model whose forward is a function of itself and its inputs; submodules by keyword."""

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


class Convolutional(nn.Module):
    """Batch norm, residuals with and without projection, max and average pooling, a gate, in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.project = nn.Conv2d(8, 8, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        x = x + self.branch(x)
        x = self.project(x) + self.branch(x)
        x = x * self.gate(x)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


class Plain(nn.Module):
    """VGG-like: convolutions, rectifiers and pooling alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(32, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Transformer(nn.Module):
    """A vision transformer of two blocks with a class token, position embeddings and layer scale."""

    def __init__(self, width: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width) * 0.1)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-5))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.scale * self.proj(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class Windows(nn.Module):
    """Swin-like: windows merged into the batch, and attention over (3, windows * B, ...)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 1)
        self.block = Block(width, 2)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, width, height, _ = x.shape
        x = x.roll((-1, -1), (2, 3)).reshape(batch, width, height // 2, 2, height // 2, 2)
        x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, width)
        x = self.block(x).reshape(batch, -1, width)
        return self.head(x.mean(1))


class Heads(nn.Module):
    """nn.MultiheadAttention, which merges heads into the batch as (N, B H) and positions as (L B)."""

    def __init__(self, batch_first: bool, need_weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.need_weights = need_weights
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        y, _ = self.attention(x, x, x, need_weights=self.need_weights)
        return self.head((x + y).mean(1 if self.attention.batch_first else 0))


class Encoder(nn.Module):
    """nn.TransformerEncoderLayer, which has a fused path in evaluation mode."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Text(nn.Module):
    """Token indices in, an embedding first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.gelu(self.hidden(self.embed(tokens))).mean(1))


def settled(model: Model, x: Any, seed: int = 0) -> Model:
    """Give constant parameters noise and batch norms the statistics of ``x``, and switch to evaluation mode.

    Fresh heads, residual gains and layer scales are often zero or nearly so, and maps of them as well.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            constant = parameter.numel() > 1 and float(parameter.std()) < 1e-4
            if constant or float(parameter.abs().max()) < 1e-3:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        norms = [m for m in model.eval().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train()
            norm.momentum = None  # the mean over all batches, which is that of this one
        if norms:
            model(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    return model


def pictures(batch: int, size: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def sequences(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 6, 8, generator=torch.Generator().manual_seed(seed))


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "plain": (Plain, pictures),
    "convolutional": (Convolutional, pictures),
    "transformer": (Transformer, pictures),
    "windows": (Windows, pictures),
    "heads": (lambda: Heads(True), sequences),
    "heads-batch-second": (lambda: Heads(False), sequences),
    "heads-weights": (lambda: Heads(True, True), sequences),
    "encoder": (Encoder, sequences),
    "encoder-norm-first": (lambda: Encoder(True), sequences),
}
"""By name: how to build a model, and inputs for so many samples."""


def make(kind: str, seed: int = 0) -> nn.Module:
    """Build a settled model of a kind without disturbing the global generator."""
    build, inputs = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return settled(build(), inputs(16))


@cache
def kept(kind: str) -> nn.Module:
    """Build a model once for all tests that leave it as it is, so that they share its capture."""
    return make(kind)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build any model in evaluation mode, always with the same parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


def gradient(model: nn.Module, x: Tensor, target: Tensor | None = None) -> Tensor:
    """What autograd says of the target's output, by default the largest."""
    x = x.detach().clone().requires_grad_()
    output = model(x)
    classes = output.argmax(1) if target is None else target
    (found,) = torch.autograd.grad(output.gather(1, classes[:, None]).sum(), x)
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest deviation relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def cosine(a: Tensor, b: Tensor) -> float:
    """Smallest cosine between the samples of two maps."""
    return float(F.cosine_similarity(a.double().flatten(1), b.double().flatten(1)).min())


def doubled(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()
