"""How much of the positive relevance falls on the object that was recognised.

A picture counts for a model whose most likely class names the picture's main object. The object's mask goes
through the same resizing and cropping as the picture; its area in the crop is the share expected by chance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf
from tqdm import tqdm

import relprop
from benchmarks.coco import Coco, Sample
from relprop.models import Classifier, load_classifier

BATCH = 8


@dataclass(frozen=True)
class Setting:
    """The weights of a classifier, and the preprocessing that they were trained with."""

    weights: str
    side: int
    interpolation: InterpolationMode
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    crop: int = 224

    def picture(self, picture: object) -> Tensor:
        """Resize, crop and normalise a picture."""
        small = tvf.center_crop(tvf.resize(picture, self.side, self.interpolation), self.crop)
        normalised: Tensor = tvf.normalize(tvf.to_tensor(small), self.mean, self.std)
        return normalised

    def mask(self, mask: object) -> Tensor:
        """Bring a mask through the same resizing and cropping, as truth values (H, W)."""
        small = tvf.center_crop(tvf.resize(mask, self.side, InterpolationMode.NEAREST), self.crop)
        pixels: Tensor = tvf.pil_to_tensor(small)[0]
        return pixels > 0


_HALF = (0.5, 0.5, 0.5)
_BICUBIC, _BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR

CLASSIFIERS: Mapping[str, Setting] = {
    "vit_tiny_patch16_224": Setting("vit_tiny_patch16_224_in1k.safetensors", 248, _BICUBIC, _HALF, _HALF),
    "mobilenet_v2": Setting("mobilenet_v2_in1k_fp16.safetensors", 256, _BILINEAR),
    "tf_efficientnet_lite0": Setting("tf_efficientnet_lite0_in1k_fp16.safetensors", 256, _BICUBIC, _HALF, _HALF),
    "squeezenet1_1": Setting("squeezenet1_1_in1k.safetensors", 256, _BILINEAR),
}


@dataclass(frozen=True)
class LocalisationRow:
    """One method on one model: the mean share inside the mask, its standard error, and chance."""

    model: str
    method: str
    pictures: int
    share_mean: float
    standard_error: float
    chance: float


@dataclass(frozen=True)
class Recognised:
    """A picture that the model names right, as the model sees it."""

    sample: Sample
    x: Tensor
    mask: Tensor
    target: int


def localise(name: str, data: Coco, limit: int | None = None, maps: Path | None = None) -> list[LocalisationRow]:
    """Measure all methods on one model.

    Parameters
    ----------
    name
        One of `CLASSIFIERS`.
    data
        Pictures and weights.
    limit
        Take the first so many pictures that count.
    maps
        Folder for one panel a picture, drawn of the default method.

    Raises
    ------
    DataError
        The weights aren't there.
    """
    setting = CLASSIFIERS[name]
    classifier = load_classifier(name, data.weights_of(setting.weights))
    classifier.model.requires_grad_(False)
    shares: dict[str, list[float]] = defaultdict(list)
    chances: list[float] = []
    counted = islice(recognised(classifier.model, setting, data), limit)
    pictures = iter(tqdm(counted, name, unit="picture", disable=None))
    while batch := tuple(islice(pictures, BATCH)):
        x = torch.stack([one.x for one in batch])
        mask = torch.stack([one.mask for one in batch])
        target = torch.tensor([one.target for one in batch])
        chances += mask.double().mean((1, 2)).tolist()
        for method, relevance in attributions(classifier.model, x, target).items():
            shares[method] += share_inside(relevance, mask).tolist()
            if maps is not None and method == "abslrp":
                _draw(maps, classifier, batch, relevance, shares[method][-len(batch) :])
    return [
        LocalisationRow(name, method, len(values), fmean(values), _standard_error(values), fmean(chances))
        for method, values in shares.items()
    ]


def recognised(model: nn.Module, setting: Setting, data: Coco) -> Iterator[Recognised]:
    """Yield the pictures whose most likely class names their main object, where the crop shows any of it."""
    for sample in data.samples:
        picture, outline = sample.read()
        x, mask = setting.picture(picture), setting.mask(outline)
        with torch.inference_mode():
            target = int(model(x[None]).argmax())
        if target in sample.classes and mask.any():
            yield Recognised(sample, x, mask, target)


def attributions(model: nn.Module, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return each method's relevance of the target, shaped like the pictures."""
    source = x.clone().requires_grad_()
    logit = model(source).gather(1, target[:, None]).sum()
    return {
        "abslrp": relprop.explain(model, x, target=target).relevance,
        "abslrp, contrast=None": relprop.explain(model, x, target=target, contrast=None).relevance,
        "abslrp-released": relprop.explain(model, x, target=target, rules="abslrp-released").relevance,
        "input*gradient": x * torch.autograd.grad(logit, source)[0],
    }


def share_inside(relevance: Tensor, mask: Tensor) -> Tensor:
    """Return, per picture, the share of positive relevance inside the mask; channels are summed first."""
    positive = relevance.double().sum(1).clamp(min=0)
    return (positive * mask).sum((1, 2)) / positive.sum((1, 2))


def _standard_error(values: list[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _draw(
    folder: Path, classifier: Classifier, batch: tuple[Recognised, ...], relevance: Tensor, shares: list[float]
) -> None:
    from relprop.pictures import PERCENTILE, robust_scale, save_panel

    folder.mkdir(parents=True, exist_ok=True)
    scaled, _ = robust_scale(relevance.sum(1).numpy())
    for one, heat, share in zip(batch, scaled, shares, strict=True):
        shown = one.x - one.x.amin((1, 2), keepdim=True)
        picture = (shown / shown.amax() * 255).round().byte().permute(1, 2, 0).numpy()
        caption = f"{classifier.name}; {share:.0%} of the positive relevance falls on the {one.sample.name}; "
        caption += f"saturates at the {PERCENTILE:g}th percentile"
        path = folder / f"{classifier.name}-{one.sample.picture.stem}.png"
        save_panel(path, picture, heat, classifier.labels[one.target], caption)
