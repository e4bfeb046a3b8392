"""Crops of a photograph see all of it, and what they show joins to what was there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms as tf

import relprop
from relprop.models import Classifier, CropError, cut_crops
from relprop.models.crops import MOST

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)


def classifier(*steps: object) -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    return Classifier.of(
        net, transform=tf.Compose([*steps, tf.ToTensor(), tf.Normalize(MEAN, STD)]), labels=list("abc")
    )


def middle(side: int = 32) -> Classifier:
    return classifier(tf.Resize(side + 8), tf.CenterCrop(side))


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth hills, which no resizing changes much."""
    y, x = np.mgrid[:height, :width]
    hills = [127 + 100 * np.sin(x / 40 + shift) * np.cos(y / 30 + shift) for shift in range(3)]
    return np.stack(hills, -1).astype(np.uint8)


@pytest.mark.parametrize("crops", [1, 2, 3, "tiles"])
@pytest.mark.parametrize(("height", "width"), [(150, 230), (230, 150)])
def test_the_crops_themselves_join_to_the_photograph(crops: object, height: int, width: int) -> None:
    known, picture = middle(), photograph(height, width)
    cut = cut_crops(known, picture, crops)  # type: ignore[arg-type]
    seen = known.pictures(cut.x)[..., 0].astype(np.float32)  # what the model sees, as if it were a map
    joined = cut.join(seen)
    assert joined.shape == (height, width)
    difference = np.abs(joined - picture[..., 0])[4:-4, 4:-4]
    assert difference.mean() < 4
    assert np.quantile(difference, 0.99) < 15


def test_a_number_counts_along_the_shorter_side_and_tiles_have_the_models_resolution() -> None:
    known, picture = middle(), photograph(120, 240)
    assert len(cut_crops(known, picture, 1).boxes) == 3
    assert len(cut_crops(known, picture, 3).boxes) == 3 * 7
    tiles = cut_crops(known, picture, "tiles").boxes
    assert {round(box[2] - box[0]) for box in tiles} <= set(range(32, 50)), "few more than 32, so that they are not 105"
    assert len(cut_crops(known, photograph(600, 800), "tiles").boxes) <= MOST


def test_one_crop_of_a_square_is_the_explanation_of_the_whole_picture() -> None:
    known, picture = classifier(tf.Resize((32, 32))), photograph(90, 90)
    cut = cut_crops(known, picture, 1)
    torch.testing.assert_close(cut.x[0], known.transform(picture), rtol=0, atol=0)
    e = relprop.explain(known.model, cut.x, target=1)
    expected = known.view(picture).on_original(e.summed()[0].numpy())
    np.testing.assert_allclose(cut.join(e.summed()), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("crops", "words"), [(0, "it is the number of crops along the shorter side"), (40, "fewer than 16 show nothing")]
)
def test_crops_that_cannot_be_cut_say_so(crops: int, words: str) -> None:
    with pytest.raises(CropError, match=words):
        cut_crops(middle(), photograph(100, 100), crops)


def test_maps_of_other_crops_are_refused() -> None:
    cut = cut_crops(middle(), photograph(100, 100), 2)
    with pytest.raises(CropError, match="there are 4 crops"):
        cut.join(torch.zeros(3, 8, 8))
