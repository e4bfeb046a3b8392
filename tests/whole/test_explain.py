"""Explaining in low precision and in chunks gives the same map."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from relprop.models import load_classifier, read_picture
from tests.helpers import models
from tests.helpers.models import cosine, distance, make, pictures
from tests.helpers.paths import SHARED

ASSETS = SHARED / "assets"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="shared/assets is not beside this checkout")


class TestPrecision:
    @pytest.mark.parametrize("kind", ["convolutional", "transformer"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.full
    def test_half_precision_models(self, kind: str, dtype: torch.dtype) -> None:
        model, x = make(kind), pictures(4)
        target = model(x).argmax(1)
        expected = relprop.explain(model, x, target=target, contrast=None)
        half = relprop.explain(copy.deepcopy(model).to(dtype), x.to(dtype), target=target, contrast=None)
        assert half.relevance.dtype == torch.float32
        assert half.relevance.isfinite().all()
        assert cosine(half.relevance, expected.relevance) >= 0.95
        assert half.conservation.error <= 1e-4

    @needs_assets
    @pytest.mark.full
    def test_real_vit_in_bfloat16_and_under_noise(self) -> None:
        model, x = _vit()
        explainer, single = relprop.Explainer(model), relprop.Explainer(model, contrast=None)
        expected = explainer(x)
        target = expected.target
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-4 * x.std()
        assert cosine(explainer(x + noise, target).relevance, expected.relevance) >= 0.99
        rounded, coarse = copy.deepcopy(model).bfloat16().float(), x.bfloat16().float()
        found = relprop.explain(rounded, coarse, target=target, contrast=None)
        assert cosine(found.relevance, single(x, target).relevance) >= 0.99
        # The contrast subtracts two maps that are nearly parallel: single pictures go down to 0.95.
        found = relprop.explain(rounded, coarse, target=target)
        together = F.cosine_similarity(found.relevance.flatten(), expected.relevance.flatten(), dim=0)
        assert float(together) >= 0.98
        assert cosine(found.relevance, expected.relevance) >= 0.9


def _vit() -> tuple[nn.Module, Tensor]:
    classifier = load_classifier("vit_tiny_patch16_224", ASSETS / "weights" / "vit_tiny_patch16_224_in1k.safetensors")
    files = sorted((ASSETS / "images" / "imagenet1k_one_per_class").glob("*.jpg"))[::250]
    return classifier.model, torch.stack([classifier.transform(read_picture(file)) for file in files])


class TestBatches:
    @pytest.mark.parametrize("kind", ["convolutional", "transformer", "windows", "heads-batch-second"])
    @pytest.mark.parametrize("size", [1, 2])
    @pytest.mark.full
    def test_chunks_change_nothing(self, kind: str, size: int) -> None:
        model, x = make(kind), models.KINDS[kind][1](3)
        whole = relprop.explain(model, x, layers=["head"])
        parts = relprop.explain(model, x, layers=["head"], batch_size=size)
        assert distance(parts.relevance, whole.relevance) <= 1e-5
        assert distance(parts.layers["head"], whole.layers["head"]) <= 1e-5
        assert torch.equal(parts.target, whole.target)
        assert parts.conservation.masses.shape == whole.conservation.masses.shape

    @pytest.mark.full
    def test_chunks_in_double_precision(self) -> None:
        model, x = make("transformer").double(), pictures(3).double()
        whole, parts = relprop.explain(model, x), relprop.explain(model, x, batch_size=1)
        assert distance(parts.relevance, whole.relevance) <= 1e-12

    def test_samples_do_not_see_each_other(self) -> None:
        model, x = make("windows").double(), pictures(3).double()
        whole = relprop.explain(model, x).relevance
        for k in range(3):
            assert distance(relprop.explain(model, x[k : k + 1]).relevance, whole[k : k + 1]) <= 1e-9
