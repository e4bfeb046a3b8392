"""Models of one, four and five channels: what they get of a picture, against tensors made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms as tf

from relprop.evaluation.data.samples import Reader
from relprop.models import Classifier, ModelError, PictureError, TransformError, load_classifier
from relprop.models.loaders.architectures import find_architectures
from relprop.pictures.bands import read_shown

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_OF, STD_OF = sum(MEAN) / 3, sum(STD) / 3
HEIGHT, WIDTH = 48, 64


class Whole(nn.Module):
    """A model of one size, whose first layer is no convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.last = nn.Linear(channels * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Average quarters, and weigh them."""
        found: Tensor = self.last(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return found


def convolutional(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def pixels(channels: int, dtype: Any = np.uint8) -> NDArray[Any]:
    generator = np.random.default_rng(channels)
    if dtype == np.float32:
        return generator.random((HEIGHT, WIDTH, channels), np.float32)
    return generator.integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, channels), dtype)


def by_hand(bands: NDArray[Any], mean: float, std: float) -> Tensor:
    """Resize each band to 256 pixels, cut out 224 and normalise, as the classic transform does to a grey picture."""
    steps = tf.Compose([tf.Resize(256), tf.CenterCrop(224), tf.ToTensor()])
    return (torch.cat([steps(Image.fromarray(bands[..., k])) for k in range(bands.shape[2])]) - mean) / std


@pytest.mark.parametrize("make", [convolutional, Whole])
def test_one_channel_is_luminance(make: Any, tmp_path: Path) -> None:
    red, green, blue = np.moveaxis(pixels(3).astype(np.float64), 2, 0)
    Image.fromarray(pixels(3)).save(tmp_path / "colours.png")
    classifier = Classifier.of(make(1).eval())
    assert (classifier.channels, classifier.mean, classifier.std) == (1, (MEAN_OF,), (STD_OF,))
    assert "neither mean nor standard deviation of 1 channel is known" in classifier.assumed
    x = classifier.transform(classifier.read(tmp_path / "colours.png"))
    grey = np.round(0.299 * red + 0.587 * green + 0.114 * blue).astype(np.uint8)
    # A level may be rounded another way.
    assert (x - by_hand(grey[..., None], MEAN_OF, STD_OF)).abs().max() <= 1.01 / 255 / STD_OF
    assert torch.equal(classifier.transform(Image.open(tmp_path / "colours.png")), x)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.save(tmp_path / "grey.npy", grey)
    for name in ("grey.png", "grey.npy"):
        x = classifier.transform(classifier.read(tmp_path / name))
        assert torch.equal(x, by_hand(grey[..., None], MEAN_OF, STD_OF))


def test_numbers_keep_their_precision(tmp_path: Path) -> None:
    classifier = Classifier.of(convolutional(1).eval())
    values = pixels(1, np.float32)
    np.save(tmp_path / "xray.npy", values[..., 0])
    x = classifier.transform(classifier.read(tmp_path / "xray.npy"))
    assert torch.allclose(x, by_hand(values, MEAN_OF, STD_OF), atol=1e-5)
    assert len(x.unique()) > 256
    np.save(tmp_path / "deep.npy", (values[..., 0] * 4095).round().astype(np.uint16))
    deep = classifier.transform(classifier.read(tmp_path / "deep.npy"))
    assert torch.allclose(deep, x, atol=2 / 4095 / STD_OF)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_bands_come_from_every_kind_of_file(channels: int, tmp_path: Path) -> None:
    bands = pixels(channels)
    first = np.ascontiguousarray(np.moveaxis(bands, 2, 0))
    np.save(tmp_path / "last.npy", bands)
    np.save(tmp_path / "first.npy", first)
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "planes.tif", first, photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(tmp_path / "pages.tif", first, photometric="minisblack")
    if channels != 5:
        Image.fromarray(bands, {2: "LA", 4: "RGBA"}[channels]).save(tmp_path / "opaque.png")
    if channels == 4:
        Image.fromarray(bands, "CMYK").save(tmp_path / "print.tif")
    classifier = Classifier.of(convolutional(channels).eval())
    more = channels > 3
    mean, std = (MEAN + (MEAN_OF,) * (channels - 3), STD + (STD_OF,) * (channels - 3)) if more else (None, None)
    assert classifier.mean == (mean or (MEAN_OF,) * channels)
    shift, scale = (torch.tensor(v).view(-1, 1, 1) for v in (mean or [MEAN_OF] * 2, std or [STD_OF] * 2))
    expected = (by_hand(bands, 0, 1) - shift) / scale
    files = sorted(tmp_path.iterdir())
    assert len(files) == {2: 6, 4: 7, 5: 5}[channels]
    for file in files:
        read = classifier.read(file)
        assert np.array_equal(read, bands), file
        assert torch.equal(classifier.transform(read), expected), file
        assert torch.equal(Reader(classifier.transform)(0, lambda _, file=file: file).x, expected), file
    view = classifier.view(bands)
    assert view.size == (WIDTH, HEIGHT)
    # Scaled to 341 x 256, of which 224 columns from the 58th on, and 224 rows from the 16th on, are cut out.
    assert view.box == pytest.approx((58 * 64 / 341, 3, 282 * 64 / 341, 45), abs=0.05)
    seen = classifier.pictures(expected[None])[0]
    levels = by_hand(bands, 0, 1)[:3] if more else by_hand(bands, 0, 1)[:1].expand(3, -1, -1)
    assert np.array_equal(seen, (levels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def test_a_wrong_number_of_channels_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(pixels(3)).save(tmp_path / "colours.png")
    np.save(tmp_path / "four.npy", pixels(4))
    tifffile.imwrite(tmp_path / "four.tif", pixels(4), photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "alpha.tif", pixels(4), photometric="rgb", extrasamples=["unassalpha"])
    np.save(tmp_path / "large.npy", pixels(4, np.float32) * 300)
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    one, three, four = (Classifier.of(convolutional(channels).eval()) for channels in (1, 3, 4))
    with pytest.raises(PictureError, match=r"colours.png: it has 3 channels, the model takes 4: give a TIFF of 4"):
        four.read(tmp_path / "colours.png")
    for name in ("four.npy", "four.tif"):
        for classifier in (one, three):
            with pytest.raises(
                PictureError, match=rf"{name}: it has 4 channels, the model takes {classifier.channels}$"
            ):
                classifier.read(tmp_path / name)
    assert three.read(tmp_path / "alpha.tif").shape == (HEIGHT, WIDTH, 3)  # opacity is no band
    with pytest.raises(PictureError, match=r"lie from 0\S* to 299\.\d+: scale them to \[0, 1\]"):
        four.read(tmp_path / "large.npy")
    with pytest.raises(PictureError, match="Object arrays"):
        four.read(tmp_path / "objects.npy")
    with pytest.raises(TransformError, match="the picture has 3 channels, the model takes 4"):
        four.transform(Image.open(tmp_path / "colours.png"))
    assert np.array_equal(read_shown(tmp_path / "four.npy"), pixels(4)[..., :3])
    assert np.array_equal(read_shown(tmp_path / "four.tif"), pixels(4)[..., :3])


def test_a_configuration_of_one_value_is_followed() -> None:
    model = convolutional(1).eval()
    model.pretrained_cfg = {"input_size": (1, 32, 32), "mean": (0.2,), "std": (0.5,), "crop_pct": 1.0}
    classifier = Classifier.of(model)
    assert (classifier.mean, classifier.std, classifier.assumed) == ((0.2,), (0.5,), "")
    grey = pixels(1)[:, :HEIGHT]
    steps = tf.Compose([tf.Resize(32, tf.InterpolationMode.BICUBIC), tf.ToTensor()])
    expected = (steps(Image.fromarray(grey[..., 0])) - 0.2) / 0.5
    assert torch.allclose(classifier.transform(grey), expected, atol=1e-6)


def test_a_transform_of_ones_own_makes_the_channel(tmp_path: Path) -> None:
    Image.fromarray(pixels(3)).save(tmp_path / "colours.png")
    steps = tf.Compose([tf.Grayscale(), tf.Resize((32, 32)), tf.ToTensor(), tf.Normalize([0.5], [0.25])])
    classifier = Classifier.of(convolutional(1).eval(), transform=steps)
    assert torch.equal(
        classifier.transform(classifier.read(tmp_path / "colours.png")), steps(Image.open(tmp_path / "colours.png"))
    )
    assert classifier.view(pixels(3)).box == pytest.approx((0, 0, WIDTH, HEIGHT), abs=0.1)


def test_weights_say_how_many_channels_a_named_model_has(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", in_chans=4, num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / "four.pth")
    classifier = load_classifier("test_resnet", tmp_path / "four.pth")
    own = find_architectures("test_resnet")[0].preprocessing()
    assert classifier.mean == (*own.mean, pytest.approx(sum(own.mean) / 3))
    x = classifier.transform(pixels(4))[None]
    with torch.no_grad():
        assert torch.equal(classifier.scores(x), model(x))


@pytest.mark.full
def test_files_of_other_libraries_say_how_many_channels_they_take(tmp_path: Path) -> None:
    x = torch.randn(2, 1, 32, 32)
    program = torch.export.export(convolutional(1).eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "one.pt2")
    classifier = load_classifier(tmp_path / "one.pt2")
    assert (classifier.channels, classifier.transform(pixels(3)).shape) == (1, (1, 32, 32))
    with pytest.raises(ModelError, match="fails on pictures of shape"):
        Classifier.of(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)).eval())
