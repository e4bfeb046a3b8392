"""Models of one and four channels on the command line: the maps are those of tensors made by hand."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision import transforms as tf

import relprop
from relprop.cli import app
from relprop.models import load_classifier
from tests.helpers.cli import assert_one_line, entries, explain, run

BANDS = """
import torch
from torch import nn

def one():
    return make(1)

def four():
    return make(4)

def make(channels):
    torch.manual_seed(0)
    first = (nn.Conv2d(channels, 8, 7, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
"""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHANNELS = {"one": 1, "four": 4}
GREY = tf.Compose([tf.Resize(256), tf.CenterCrop(224), tf.ToTensor()])


@pytest.fixture
def scenes(desk):
    """A folder of satellite scenes of four bands, and their luminance."""
    Path("bands.py").write_text(BANDS)
    Path("scenes").mkdir()
    for k, name in enumerate(["a.png", "b.tif", "c.tif", "d.tif"]):
        small = np.random.default_rng(k).integers(0, 256, (6, 8, 4), np.uint8)
        bands = cv2.resize(small, (80, 60), interpolation=cv2.INTER_CUBIC)
        if name == "a.png":
            Image.fromarray(bands, "RGBA").save(Path("scenes", name))
        else:
            tifffile.imwrite(Path("scenes", name), bands, photometric="minisblack", planarconfig="contig")
        np.save(f"{name[0]}.npy", bands)
    return desk


def by_hand(bands):
    """Return bands ``(H, W, C)`` as the model's input: each of them as a grey picture, and normalised."""
    count = bands.shape[2]
    mean, std = (sum(values) / 3 for values in (MEAN, STD))
    means, stds = ((*MEAN, mean), (*STD, std)) if count == 4 else ((mean,), (std,))
    x = torch.cat([GREY(Image.fromarray(np.ascontiguousarray(bands[..., k]))) for k in range(count)])
    return (x - torch.tensor(means).view(-1, 1, 1)) / torch.tensor(stds).view(-1, 1, 1)


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize(("name", "file"), [("four", "scenes/b.tif"), ("four", "a.npy"), ("one", "cat.jpg")])
def test_explain_gives_the_map_of_the_tensor(scenes, name, file):
    result = explain(file, "--model", f"bands:{name}", "--format", "png,npz", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "neither mean nor standard deviation" in result.output
    (entry,) = entries()
    if name == "one":
        bands = np.asarray(Image.fromarray(load_classifier("bands:one").read(file)).convert("L"))[..., None]
    else:
        bands = np.load(f"{Path(file).stem}.npy")
    x = by_hand(bands)[None]
    model = load_classifier(f"bands:{name}").model
    expected = relprop.explain(model, x)
    with np.load(Path("out", entry["paths"]["npz"])) as arrays:
        assert arrays["relevance"].shape == (1, CHANNELS[name], 224, 224)
        np.testing.assert_allclose(arrays["relevance"], expected.relevance.numpy(), rtol=1e-4, atol=1e-9)
    assert entry["predicted"] == int(model(x).argmax())
    assert cv2.imread(f"out/{entry['paths']['png']}").std() > 10
    assert entry["box"] is not None


@pytest.mark.full
def test_the_caption_says_what_is_drawn_of_the_bands(scenes):
    from relprop.cli.explaining.drawing import draw
    from relprop.cli.explaining.picture import read_input

    classifier = load_classifier("bands:four")
    looked = read_input(Path("scenes/b.tif"), classifier)
    figure = draw(classifier, "abslrp", looked, relprop.explain(classifier.model, looked.x[None], channel_axis=1))
    said = "".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert "b.tif, of whose 4 channels the first three are drawn" in said


@pytest.mark.full
def test_a_picture_of_other_channels_is_skipped_by_name(scenes):
    result = explain("cat.jpg", "scenes/b.tif", "--model", "bands:four", "-o", "out")
    assert result.exit_code == 1
    assert "cat.jpg: it has 3 channels, the model takes 4: give a TIFF of 4 bands, or .npy (H, W, 4)" in result.stderr
    assert [entry.get("target") is not None for entry in entries()] == [False, True]
    result = explain("scenes", "--model", "bands:one", "-o", "none")
    assert "c.tif: it has 4 channels, the model takes 1" in result.stderr


@pytest.mark.full
@pytest.mark.parametrize("name", ["four", "one"])
def test_evaluate_scores_the_same_tensors(scenes, name):
    folder = "scenes"
    if name == "one":
        folder = "grey"
        Path(folder).mkdir()
        for k in "abcd":
            np.save(f"grey/{k}.npy", np.load(f"{k}.npy")[..., 0])
    result = run.invoke(
        app, ["evaluate", "--model", f"bands:{name}", folder, "-m", "abslrp", "-o", "run.h5",
              "--relevance", "channels", "--unit", "1", "--truth", "none"]
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    classifier = load_classifier(f"bands:{name}")
    with h5py.File("run.h5") as file:
        names, outputs = list(file["samples/name"].asstr()), file["samples/output"][:]
        maps = file["methods/abslrp/maps/relevance"][:]
        targets = file["samples/target"][:]
    for row, sample in enumerate(names):
        bands = np.load(f"{sample[0]}.npy")
        x = by_hand(bands if name == "four" else bands[..., :1])[None]
        expected = relprop.explain(classifier.model, x, target=int(targets[row]))
        np.testing.assert_allclose(outputs[row], expected.output[0].numpy(), rtol=1e-4, atol=1e-6)
        scale = expected.relevance.abs().max()
        np.testing.assert_allclose(maps[row] / np.abs(maps[row]).max(), expected.relevance[0] / scale, atol=1e-3)


def test_evaluate_says_that_no_picture_fits(scenes):
    result = run.invoke(
        app,
        ["evaluate", "--model", "bands:one", "scenes", "-m", "constant", "-o", "run.h5", "--truth", "none"],
    )
    assert_one_line(result, "it has 4 channels, the model takes 1")
    assert not Path("run.h5").exists()
