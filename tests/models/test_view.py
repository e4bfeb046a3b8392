"""Where on a picture a model looks: against geometry worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as tv
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import nn
from torchvision import transforms as tf
from torchvision.transforms import functional as tvf

from relprop.models import Classifier, PictureTransform, TransformError, View, ViewError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _classifier(
    steps: Callable[[Any], Any], mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> Classifier:
    return Classifier("test", nn.Identity(), (), PictureTransform(steps), mean, std, "test")


def _timm(size: int, crop: float, mode: str, **options: Any) -> Callable[[Any], Any]:
    steps: Callable[[Any], Any] = create_transform((3, size, size), crop_pct=crop, crop_mode=mode, **options)
    return steps


def _chain(*steps: Any) -> Callable[[Any], Any]:
    chain: Callable[[Any], Any] = tf.Compose([*steps, tf.ToTensor(), tf.Normalize(MEAN, STD)])
    return chain


V1 = tv.get_model_weights("resnet18").IMAGENET1K_V1.transforms()
V2 = tv.get_model_weights("resnet50").IMAGENET1K_V2.transforms()
CENTRE, ALL = _timm(224, 0.875, "center"), _timm(224, 1.0, "center", interpolation="bicubic")
SQUASH, SQUASHED = _timm(224, 0.875, "squash"), _timm(384, 1.0, "squash", interpolation="bicubic")
BORDER, BORDERED = _timm(288, 0.9, "border"), _timm(288, 1.0, "border", interpolation="bicubic")
CROP = _chain(tf.CenterCrop(224))

# Steps, size of the picture, size it is scaled to, left and top of the crop in the scaled picture, size of the crop:
# read off the definitions of the transforms, pixel by pixel.
GEOMETRY: list[tuple[str, Any, tuple[int, int], tuple[int, int], tuple[int, int], int]] = [
    ("torchvision", V1, (640, 480), (341, 256), (58, 16), 224),
    ("torchvision", V1, (480, 640), (256, 341), (16, 58), 224),
    ("torchvision", V1, (500, 500), (256, 256), (16, 16), 224),
    ("torchvision", V1, (50, 40), (320, 256), (48, 16), 224),
    ("torchvision", V1, (4000, 3000), (341, 256), (58, 16), 224),
    ("torchvision", V1, (3000, 4000), (256, 341), (16, 58), 224),
    ("torchvision 2", V2, (640, 480), (309, 232), (42, 4), 224),
    ("timm 0.875", CENTRE, (640, 480), (341, 256), (58, 16), 224),
    ("timm 0.875", CENTRE, (500, 500), (256, 256), (16, 16), 224),
    ("timm 0.875", CENTRE, (3000, 4000), (256, 341), (16, 58), 224),
    ("timm 1.0", ALL, (640, 480), (298, 224), (37, 0), 224),
    ("timm 1.0", ALL, (480, 640), (224, 298), (0, 37), 224),
    ("timm 1.0", ALL, (50, 40), (280, 224), (28, 0), 224),
    ("timm 1.0", ALL, (4000, 3000), (298, 224), (37, 0), 224),
    ("squash", SQUASH, (640, 480), (256, 256), (16, 16), 224),
    ("squash", SQUASH, (50, 40), (256, 256), (16, 16), 224),
    ("squash", SQUASH, (3000, 4000), (256, 256), (16, 16), 224),
    ("squash 1.0", SQUASHED, (640, 480), (384, 384), (0, 0), 384),
    ("squash 1.0", SQUASHED, (4000, 3000), (384, 384), (0, 0), 384),
    ("border", BORDER, (640, 480), (320, 240), (16, -24), 288),
    ("border", BORDER, (300, 400), (240, 320), (-24, 16), 288),
    ("border", BORDER, (320, 320), (320, 320), (16, 16), 288),
    ("border", BORDER, (4000, 3000), (320, 240), (16, -24), 288),
    ("border 1.0", BORDERED, (640, 480), (288, 216), (0, -36), 288),
    ("border 1.0", BORDERED, (3000, 4000), (216, 288), (-36, 0), 288),
    ("crop alone", CROP, (1000, 800), (1000, 800), (388, 288), 224),
    ("crop alone", CROP, (200, 300), (200, 300), (-12, 38), 224),
    ("crop alone", CROP, (4000, 3000), (4000, 3000), (1888, 1388), 224),
    ("panorama", V1, (2000, 100), (5120, 256), (2448, 16), 224),
]


@pytest.mark.parametrize(
    ("steps", "size", "scaled", "corner", "crop"),
    [case[1:] for case in GEOMETRY],
    ids=[f"{case[0]} {case[2][0]}x{case[2][1]}" for case in GEOMETRY],
)
def test_box_is_where_the_transform_looks(
    steps: Any, size: tuple[int, int], scaled: tuple[int, int], corner: tuple[int, int], crop: int
) -> None:
    across, down = size[0] / scaled[0], size[1] / scaled[1]
    wanted = (corner[0] * across, corner[1] * down, (corner[0] + crop) * across, (corner[1] + crop) * down)
    view = _classifier(steps).view(np.zeros((size[1], size[0], 3), np.uint8))
    assert view.size == size
    assert view.box == pytest.approx(wanted, abs=max(0.5, 0.0005 * max(size)))


def test_nearest_pixels_and_half_means_do_not_disturb() -> None:
    nearest = _chain(tf.Resize((224, 224), tf.InterpolationMode.NEAREST))
    assert _classifier(nearest).view(np.zeros((480, 640, 3), np.uint8)).box == pytest.approx((0, 0, 640, 480), abs=1)
    half = (0.5, 0.5, 0.5)
    padded = _classifier(_timm(224, 1.0, "border", mean=half, std=half), half, half)
    assert padded.view(np.zeros((480, 640, 3), np.uint8)).box == pytest.approx((0, -80, 640, 560), abs=1)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_padding_of_any_kind_exceeds_the_picture(mode: str) -> None:
    steps = _chain(tf.Pad((100, 50), padding_mode=mode), tf.Resize((224, 224)))
    box = _classifier(steps).view(np.zeros((250, 300, 3), np.uint8)).box
    assert box == pytest.approx((-100, -50, 400, 300), abs=1)


def test_a_view_is_found_once_for_a_size() -> None:
    calls = []
    classifier = _classifier(lambda image: calls.append(image.size) or V1(image))
    view = classifier.view(Image.new("RGB", (60, 50)))
    assert classifier.view(np.zeros((50, 60, 3), np.uint8)) is view
    assert classifier.view(np.zeros((60, 50, 3), np.uint8)).size == (50, 60)
    assert calls == [(60, 50), (50, 60)]


class _Draw:
    """Steps that draw random numbers, from PyTorch, the standard library or numpy."""

    def __init__(self, draw: Callable[[], object]) -> None:
        self.draw = draw

    def __call__(self, image: Image.Image) -> Image.Image:
        self.draw()
        return image


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random, np.random.rand])
def test_random_transforms_are_refused(draw: Callable[[], object]) -> None:
    with pytest.raises(ViewError, match="random"):
        _classifier(_chain(_Draw(draw), tf.Resize((64, 64)))).view(np.zeros((80, 90, 3), np.uint8))


@pytest.mark.parametrize(
    "step",
    [
        lambda image: tvf.rotate(image, 10),
        lambda image: tvf.rotate(image, 2),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        tvf.hflip,
        tvf.vflip,
        lambda image: tvf.adjust_brightness(image, 1.2),
        lambda image: tvf.adjust_saturation(image, 0.5),
        lambda image: tvf.affine(image, 0, [0, 0], 1.0, [5.0, 0.0]),
        tf.Grayscale(3),
    ],
)
def test_what_is_more_than_resizing_and_cropping_is_refused(step: Any) -> None:
    with pytest.raises(ViewError):
        _classifier(_chain(step, tf.Resize((224, 224)))).view(np.zeros((300, 300, 3), np.uint8))


def test_the_wrong_mean_is_noticed() -> None:
    classifier = replace(_classifier(V1), mean=(0.5, 0.5, 0.5))
    with pytest.raises(ViewError, match="mean and std"):
        classifier.view(np.zeros((300, 300, 3), np.uint8))


def test_too_small_to_tell() -> None:
    with pytest.raises(ViewError):
        _classifier(V1).view(np.zeros((1, 1, 3), np.uint8))


def test_a_transform_that_makes_no_picture_is_named() -> None:
    with pytest.raises(TransformError, match=r"shape \(1, 50, 60\)"):
        _classifier(tf.Compose([tf.Grayscale(), tf.ToTensor()])).view(np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(TransformError, match="ZeroDivisionError"):
        _classifier(lambda image: 1 / 0).view(np.zeros((50, 60, 3), np.uint8))


# --- maps back on the picture ---


def test_a_map_over_part_of_the_picture_lands_there() -> None:
    heat = np.arange(12, dtype=np.float64).reshape(3, 4)
    laid = View((10, 8), (3, 2, 7, 5)).on_original(heat)  # one pixel of the map is one of the picture
    wanted = np.zeros((8, 10))
    wanted[2:5, 3:7] = heat
    assert laid.dtype == np.float32
    np.testing.assert_allclose(laid, wanted, atol=1e-5)


def test_a_map_that_exceeds_the_picture_is_cut() -> None:
    heat = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_allclose(View((4, 2), (0, -1, 4, 3)).on_original(heat), heat[1:3], atol=1e-5)


def test_pixels_in_between_are_bilinear() -> None:
    laid = View((4, 1), (0, 0, 4, 1)).on_original(np.array([[1.0, 3.0]]))
    np.testing.assert_allclose(laid, [[1, 1.5, 2.5, 3]], atol=0.05)  # centres at 1/4, 3/4, 5/4, 7/4 of map pixels


def test_a_scaled_picture_is_served_as_well() -> None:
    view = View((400, 300), (50, 0, 350, 300))
    laid = view.on_original(np.ones((7, 7)), (30, 40))
    assert laid.shape == (30, 40)
    assert (laid[:, 5:35] == 1).all()
    assert (laid[:, :5] == 0).all()
    assert (laid[:, 35:] == 0).all()


def test_a_coarser_picture_gets_means_not_single_pixels() -> None:
    heat = np.indices((64, 64)).sum(axis=0) % 2  # a chequerboard: its mean is one half everywhere
    np.testing.assert_allclose(View((8, 8), (0, 0, 8, 8)).on_original(heat), np.full((8, 8), 0.5), atol=1e-4)


@pytest.mark.parametrize("size", [(640, 480), (300, 500)])
@pytest.mark.parametrize("steps", [V1, SQUASH, BORDER], ids=["torchvision", "squash", "border"])
def test_what_the_model_saw_comes_back_where_it_was(steps: Any, size: tuple[int, int]) -> None:
    """A blob in the picture is found by its brightest place in what the model sees, and comes back to its own."""
    width, height = size
    x, y = width * 0.4, height * 0.55
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 20**2))
    picture = np.repeat((blob * 255).astype(np.uint8)[..., None], 3, axis=2)
    classifier = _classifier(steps)
    seen = classifier.pictures(classifier.transform(picture)[None])[0, ..., 0].astype(np.float32)
    seen[seen < 128] = 0  # padding is not black
    back = classifier.view(picture).on_original(seen)
    assert (back * columns).sum() / back.sum() == pytest.approx(x, abs=0.5)
    assert (back * rows).sum() / back.sum() == pytest.approx(y, abs=0.5)
