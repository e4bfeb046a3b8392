"""The authors' names: maps and scores are those of their code, and the model stays as it is."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import TensorDataset

import relprop
from relprop.compat.abslrp_gae import (
    AbsLRPRelevancyMethod,
    GlobalEvaluationMetric,
    NormalizationType,
    RelevancyMethod,
    VGGAbsLRPRule,
    normalize_relevance,
    preprocess_image,
    renormalize_images,
    visualize_batch,
)
from relprop.gae import mosaic_members
from tests.gae.test_released import input_times_gradient, recorded
from tests.helpers.models import kept
from tests.rule_registry.test_golden import load


@recorded
@pytest.mark.full
def test_maps_are_those_of_the_record():
    model, record = load("vgg")
    before, x = copy.deepcopy(model.state_dict()), record["x"]
    VGGAbsLRPRule().apply(model)
    found = AbsLRPRelevancyMethod(model, "cpu").relevancy(x)
    difference = record["target_map"] - record["rest_map"]
    expected = difference / difference.flatten(1).abs().amax(1)[:, None, None, None]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(AbsLRPRelevancyMethod(model).relevancy(x, record["target"]), found)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(hasattr(module, "explain") or module._forward_hooks for module in model.modules())


class Gradient(RelevancyMethod):
    """A method of a user's own, as the authors' base class has them."""

    def _generate_relevancy(self, x, y):
        return input_times_gradient(self.model, x.clone(), y)


@recorded
@pytest.mark.full
def test_scores_are_those_of_the_record(monkeypatch):
    monkeypatch.setattr("relprop.compat.abslrp_gae.metric.show_figure", lambda figure: None)
    model, record = load("vgg")
    mosaic = record["gae_contrastiveness_raw"].argmax()[None]
    places = torch.from_numpy(mosaic_members(4, 0)).flatten()
    chosen = torch.empty(4, dtype=torch.long)
    chosen[places] = record["gae_batch_order"][mosaic].flatten()
    metric = GlobalEvaluationMetric(device="cpu")
    dataset = TensorDataset(record["gae_images"][chosen].double(), record["gae_labels"][chosen])
    results = metric.run({"IxG": Gradient(model)}, model=model, dataset=dataset, batch_size=4)
    drawn = places[record["gae_positive_in_batch"][mosaic]]
    for key, expected in (("local_consistency", "gae_local_consistency"), ("gae", "gae")):
        torch.testing.assert_close(results["IxG"][key][drawn], record[expected][mosaic], rtol=1e-6, atol=1e-6)
        assert results["IxG"][key].shape == (4,)
    figure = metric.plot()
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [float(values.mean()) for values in results["IxG"].values()])


def test_pictures_are_prepared_as_theirs():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    steps = [T.ToTensor(), T.Resize((256, 256), antialias=True), T.CenterCrop((224, 224))]
    expected = T.Compose([*steps, T.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)])(image)
    torch.testing.assert_close(preprocess_image(image), expected)
    torch.testing.assert_close(preprocess_image(image, True), 2 * T.Compose(steps)(image) - 1)
    torch.testing.assert_close(renormalize_images(expected[None])[0], T.Compose(steps)(image))
    assert preprocess_image(image.convert("L")).shape == (3, 224, 224)


def test_maps_are_normalised():
    maps = torch.tensor([[[1.0, -3.0]], [[0.0, 0.0]]])
    assert normalize_relevance(maps, NormalizationType.SUM_TO_ONE).flatten().tolist() == [0.25, -0.75, 0, 0]
    assert normalize_relevance(maps, NormalizationType("max")).flatten().tolist() == pytest.approx([1 / 3, -1, 0, 0])


def test_a_batch_is_drawn(monkeypatch, tmp_path: Path):
    shown = []
    monkeypatch.setattr("relprop.compat.abslrp_gae.utils.show_figure", shown.append)
    x, relevance = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    figure = visualize_batch(x, relevance)
    assert shown == [figure]
    figure.savefig(tmp_path / "batch.png")
    assert (tmp_path / "batch.png").stat().st_size > 1000
    with pytest.raises(relprop.InputError, match="are not of the pictures"):
        visualize_batch(x, relevance[:1])


def test_what_is_refused():
    model = kept("plain")
    with pytest.raises(relprop.RelpropError, match="no rule was applied to this Plain"):
        AbsLRPRelevancyMethod(copy.deepcopy(model)).relevancy(torch.randn(1, 3, 8, 8))
    with pytest.raises(NotImplementedError, match="RelevancyMethod has no method _generate_relevancy"):
        RelevancyMethod(model).relevancy(torch.randn(1, 3, 8, 8))
    with pytest.raises(relprop.InputError, match="a multiple of four"):
        GlobalEvaluationMetric().run({}, model, [], 6)
    with pytest.raises(relprop.InputError, match="10 masking steps, not 5"):
        GlobalEvaluationMetric(5)
    with pytest.raises(relprop.RelpropError, match="call run first"):
        GlobalEvaluationMetric().plot()
