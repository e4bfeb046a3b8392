"""Whether explanations are right on an architecture: the gradient oracle and conservation, one row a model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import timm
import torch
from tqdm import tqdm

import relprop
from benchmarks.weights import settle

FAMILIES = [
    "vgg11",
    "vgg11_bn",
    "resnet18",
    "resnext50_32x4d",
    "seresnet18",
    "legacy_seresnet18",
    "seresnext26d_32x4d",
    "densenet121",
    "inception_v3",
    "inception_v4",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "convnext_atto",
    "regnetx_002",
    "regnety_002",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
]
"""The smallest timm member of each family that the rules are written for."""

BATCHES = (1, 2, 3)


@dataclass(frozen=True)
class CorrectnessRow:
    """What was found for one model with random, settled weights at its own input size.

    Attributes
    ----------
    model
        A timm name.
    operations
        How many operations carry relevance.
    oracle_error
        Largest over batches of 1, 2 and 3, one capture: the program under ``gradient`` against autograd, over the
        largest gradient, in float64.
    conservation_error
        Largest deviation of a cut's mass from one under ``abslrp`` in float32, counted losses put back.
    lost
        Largest share of a seed's mass that was counted as lost.
    where
        The operations that lost it.
    suspects
        How many rules seem to delete relevance.
    seconds
        All of this together.
    """

    model: str
    operations: int
    oracle_error: float
    conservation_error: float
    lost: float
    where: str
    suspects: int
    seconds: float


def measure(names: list[str]) -> list[CorrectnessRow]:
    """Measure models one after the other."""
    return [_measure(name) for name in tqdm(names, unit="model", disable=None)]


def _measure(name: str) -> CorrectnessRow:
    start = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = timm.create_model(name)
    x = torch.randn(max(BATCHES), *model.default_cfg["input_size"], generator=torch.Generator().manual_seed(1))
    model = settle(model, x)
    conserved = relprop.explain(model, x[:2]).conservation
    operations = len(relprop.Explainer(model).plan(x[:2]).sites)
    model, x = model.double(), x.double()
    oracle = max(relprop.gradient_oracle_error(model, x[:batch]) for batch in BATCHES)
    return CorrectnessRow(
        model=name,
        operations=operations,
        oracle_error=oracle,
        conservation_error=conserved.error,
        lost=conserved.lost,
        where=" ".join(cut.name for cut in conserved.losses),
        suspects=len(conserved.suspects),
        seconds=time.perf_counter() - start,
    )
