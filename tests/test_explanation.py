"""What a user does with an explanation: look at it, save it, show it."""

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import relprop
from relprop.files import OutputError


@pytest.fixture(scope="module")
def explained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    return relprop.explain(model, torch.randn(3, 3, 16, 20), layers=["0", "1"])


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(1))


def test_heatmap_is_scaled_per_sample(explained):
    heat = explained.heatmap()
    assert heat.shape == (3, 16, 20)
    assert torch.equal(heat.abs().amax((1, 2)), torch.ones(3))
    summed = explained.relevance.sum(1)
    torch.testing.assert_close(heat[1], summed[1] / summed[1].abs().max())


def test_overlay_marks_where_relevance_is(explained, images):
    drawn = explained.overlay(images)
    assert drawn.shape == (3, 16, 20, 3)
    assert drawn.dtype == np.uint8
    colourful = np.ptp(drawn.astype(int), axis=3)
    assert colourful.max() > 50, "the strongest relevance has a colour over the grey picture"


@pytest.mark.parametrize("name", ["maps.png", "maps.npz", "maps.h5"])
def test_save_writes_the_whole_file_and_nothing_else(explained, tmp_path, name):
    explained.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if name.endswith(".npz"):
        with np.load(tmp_path / name) as saved:
            assert set(saved) == {"relevance", "output", "target", "layer:0", "layer:1"}
            np.testing.assert_array_equal(saved["relevance"], explained.relevance.numpy())
    if name.endswith(".h5"):
        with h5py.File(tmp_path / name) as saved:
            np.testing.assert_array_equal(saved["layer:0"], explained.layers["0"].numpy())
            assert saved.attrs["rules"] == "abslrp"
    if name.endswith(".png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_save_over_pictures_differs_from_maps_alone(explained, images, tmp_path):
    explained.save(tmp_path / "a.png")
    explained.save(tmp_path / "b.png", images)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["maps.jpg", "missing/maps.npz", "missing/maps.h5", "missing/maps.png"])
def test_save_says_why_it_cannot(explained, tmp_path, name):
    with pytest.raises(OutputError, match="cannot write"):
        explained.save(tmp_path / name)
    assert not list(tmp_path.rglob("*"))


def test_normalised_images_are_refused(explained, images):
    with pytest.raises(relprop.RelpropError, match="undo the normalisation"):
        explained.overlay(images * 4 - 2)


def test_notebooks_get_a_png(explained):
    assert explained._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"


def test_probability_is_the_softmax_of_the_target(explained):
    expected = explained.output.softmax(1)[torch.arange(3), explained.target]
    torch.testing.assert_close(explained.probability, expected)


def test_printing_tells_the_conservation(explained):
    assert "largest error" in str(explained)
    assert "abslrp" in repr(explained)
