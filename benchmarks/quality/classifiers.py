"""The classifiers whose pretrained weights are among the shared assets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf


@dataclass(frozen=True)
class Setting:
    """The weights of a classifier, and the preprocessing that they were trained with."""

    weights: str
    side: int
    interpolation: InterpolationMode
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop: int = 224

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What black and white become, for each channel."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return tuple(-mean / std for mean, std in pairs), tuple((1 - mean) / std for mean, std in pairs)

    def picture(self, picture: object) -> Tensor:
        """Resize, crop and normalise a picture, as (3, H, W)."""
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
