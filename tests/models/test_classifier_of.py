"""A classifier of a module of one's own: what is done to its pictures, and what its classes are called."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as tf

import relprop
from relprop.models import Classifier, LabelsError, ModelError, TransformError

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)


def net(classes=5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    ).eval()


def test_a_timm_style_configuration_is_followed():
    model = net()
    model.pretrained_cfg = {"input_size": (3, 32, 48), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
                            "label_names": list("abcde")}  # fmt: skip
    found = Classifier.of(model)
    assert (found.labels, found.mean, found.std, found.assumed) == (
        tuple("abcde"),
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
        "",
    )
    assert found.transform(PICTURE).shape == (3, 32, 48)


def test_torchvision_weights_say_all():
    from torchvision.models import MobileNet_V3_Small_Weights

    weights = MobileNet_V3_Small_Weights.DEFAULT
    found = Classifier.of(net(1000), weights=weights)
    assert found.labels == tuple(weights.meta["categories"])
    expected = weights.transforms()(Image.fromarray(PICTURE))
    torch.testing.assert_close(found.transform(PICTURE), expected, rtol=0, atol=0)
    assert str(weights) in repr(found)


class Processor:
    """As an image processor of Hugging Face is called, and what it says of itself."""

    do_normalize = True
    image_mean, image_std = [0.5, 0.5, 0.5], [0.25, 0.5, 0.5]

    def __call__(self, images, return_tensors):
        assert isinstance(images, Image.Image)
        assert return_tensors == "pt"
        pixels = torch.from_numpy(np.asarray(images.resize((20, 16)))).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(value)[:, None, None] for value in (self.image_mean, self.image_std))
        return {"pixel_values": [(pixels - mean) / std]}


class HuggingFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net(3)
        self.config = SimpleNamespace(id2label={0: "cat", 1: "dog", 2: "cow"})

    def forward(self, pixel_values):
        return {"logits": self.inner(pixel_values), "hidden": pixel_values}


@pytest.mark.full
def test_a_hugging_face_processor_is_followed_and_everything_works_with_it():
    model = HuggingFace().eval()
    before = copy.deepcopy(model.state_dict()), dict(vars(model))
    found = Classifier.of(model, processor=Processor(), name="mine")
    assert (found.labels, found.output) == (("cat", "dog", "cow"), "logits")
    x = found.transform(PICTURE)[None]
    assert x.shape == (1, 3, 16, 20)
    seen = np.asarray(Image.fromarray(PICTURE).resize((20, 16)))
    assert np.abs(found.pictures(x)[0].astype(int) - seen.astype(int)).max() <= 1
    e = relprop.explain(found, x)
    (title,) = found.titles(e)
    assert title == f"{found.labels[int(e.target)]} {float(e.probability):.1%}"
    torch.testing.assert_close(e.relevance, relprop.explain(model, x, output="logits").relevance)
    assert found.view(PICTURE).size == (60, 50)
    assert dict(vars(model)) == before[1]
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before[0].items())


def test_a_real_hugging_face_model_and_processor():
    transformers = pytest.importorskip("transformers", reason="needs pip install transformers")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, num_labels=3
    )
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    found = Classifier.of(model, processor=processor)
    x = found.transform(PICTURE)[None]
    expected = processor(images=Image.fromarray(PICTURE), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(x, torch.as_tensor(expected), rtol=0, atol=0)
    assert (found.labels, found.output) == (tuple(config.id2label.values()), "logits")
    assert (tuple(found.mean), tuple(found.std)) == ((0.4,) * 3, (0.5,) * 3)
    scores = model(x).logits
    e = relprop.explain(found, x)
    torch.testing.assert_close(e.output, scores.detach(), rtol=1e-4, atol=1e-5)
    assert int(e.target) == int(scores.argmax())
    assert found.view(PICTURE).box == pytest.approx((0, 0, 60, 50), abs=1)


def test_a_transform_may_be_given_with_its_normalisation_or_end_in_it(tmp_path):
    steps = [tf.Resize((8, 8)), tf.ToTensor(), tf.Normalize((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))]
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\n")
    found = Classifier.of(net(), transform=tf.Compose(steps), labels=names)
    assert (found.mean, found.labels) == ((0.1, 0.2, 0.3), tuple("abcde"))
    plain = Classifier.of(net(), transform=tf.Compose(steps[:2]), mean=[0] * 3, std=[1] * 3)
    assert plain.pictures(plain.transform(PICTURE)[None]).shape == (1, 8, 8, 3)
    assert "assumed" in Classifier.of(net()).assumed


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: Classifier.of(net().forward), ModelError, "takes an nn.Module, not a method: names of models"),
        (lambda: Classifier.of(net().train()), ModelError, "in training mode: call model.eval"),
        (lambda: Classifier.of(net(), labels=["a"]), LabelsError, "names 1 classes, Sequential has 5"),
        (lambda: Classifier.of(net()[:3].eval()), ModelError, "not one tensor"),
        (lambda: Classifier.of(net(), transform=tf.ToTensor()), TransformError, "give mean= and std="),
        (
            lambda: Classifier.of(net(), transform=tf.ToTensor(), processor=Processor()),
            TransformError,
            "give one of them",
        ),
    ],
)
def test_what_can_not_be_is_told(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
