"""Models of one's own: functions, and exported programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import relprop
from relprop.errors import CaptureError, RelpropError
from relprop.models import Classifier, LabelsError, ModelError, UnknownModelError, WeightsError, load, load_classifier

SOURCE = """
import sys
import torch
from torch import nn
from torchvision import transforms as tf
from relprop.models import Classifier

NUMBERS = [1, 2]

class Small(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.fc = nn.Linear(4, classes)
        self.drop = nn.Dropout(0.5)
    def forward(self, x):
        return self.fc(self.drop(self.conv(x).relu().mean((2, 3))))

def make_small():
    return Small()

def configured():
    model = Small()
    model.pretrained_cfg = {"input_size": (3, 64, 96), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 1.0}
    return model

ready = Small(5)

def imports_lately():
    import helper_of_zoo
    return helper_of_zoo.Deeper()

def classifier(labels=("a", "b", "c", "d")):
    steps = tf.Compose([tf.Resize((32, 48)), tf.ToTensor(), tf.Normalize((0.5,) * 3, (0.25,) * 3)])
    return Classifier("my net", Small(), labels, steps, (0.5,) * 3, (0.25,) * 3, "my own training")

def miscounted():
    return classifier(("a", "b"))

def number():
    return 3

def needs(argument):
    return argument

def exits():
    sys.exit(2)

def raises():
    raise RuntimeError("no weights here\\nand more")

class Dict(Small):
    def forward(self, x):
        return {"logits": super().forward(x)}

class Map(Small):
    def forward(self, x):
        return self.conv(x)

class Mixed(Small):
    def forward(self, x):
        return super().forward(x).sum(0, keepdim=True)

class Grey(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 3, 3))

class Sized(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(7, 3))

def exported():
    from torch.export import Dim, export
    return export(Small().eval(), (torch.rand(2, 3, 40, 56),), dynamic_shapes=({0: Dim("batch")},))

def unlifted():
    return exported().module()
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a module and a package, which nothing but it makes importable."""
    (tmp_path / "zoo_of_mine.py").write_text(SOURCE)
    (tmp_path / "helper_of_zoo.py").write_text("from zoo_of_mine import Small as Deeper")
    (tmp_path / "nets_of_mine").mkdir()
    (tmp_path / "nets_of_mine" / "__init__.py").touch()
    (tmp_path / "nets_of_mine" / "small.py").write_text("from zoo_of_mine import Small, make_small")
    (tmp_path / "nets_of_mine" / "broken.py").write_text("import absent_library")
    (tmp_path / "nets_of_mine" / "script.py").write_text("import sys\nsys.exit('usage: script')")
    (tmp_path / "nets_of_mine" / "typo.py").write_text("def make(:\n    pass")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path
    for name in list(sys.modules):
        if name.split(".")[0] in ("zoo_of_mine", "helper_of_zoo", "nets_of_mine", "nets"):
            del sys.modules[name]


# --- functions ---


@pytest.mark.parametrize("name", ["zoo_of_mine:make_small", "nets_of_mine.small:make_small", "zoo_of_mine:Small"])
def test_a_function_in_the_current_directory_is_called(name: str, zoo: Path) -> None:
    before = list(sys.path)
    classifier = load_classifier(name)
    assert sys.path == before
    assert not any(module.training for module in classifier.model.modules())
    assert classifier.name == name
    assert classifier.origin == f"function {name}"
    assert classifier.labels == ("class 0", "class 1", "class 2", "class 3")
    assert "assumed" in classifier.assumed
    assert classifier.transform(np.zeros((50, 60, 3), np.uint8)).shape == (3, 224, 224)


def test_a_function_in_a_file_is_called(zoo: Path) -> None:
    loaded = load_classifier("zoo_of_mine.py:make_small")
    assert (loaded.name, len(loaded.labels)) == ("zoo_of_mine.py:make_small", 4)
    package = zoo / "elsewhere" / "own package" / "nets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text("from torch import nn\nHead = nn.Linear\n")
    (package / "small.py").write_text(
        "from torch import nn\nfrom .layers import Head\n"
        "def build():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Head(3, 6))\n"
    )
    before = list(sys.path)
    for path in ("elsewhere/own package/nets/small.py", package / "small.py"):
        assert len(load_classifier(f"{path}:build").labels) == 6
    assert sys.path == before
    for name, words in {
        "elsewhere/nowhere.py:build": "there is no file elsewhere/nowhere.py",
        f"{package}/small.py": f"say which of its functions makes the model, {package}/small.py:build",
        f"{package}/small.py:buil": "no function buil; near names: build",
    }.items():
        with pytest.raises(UnknownModelError, match=words):
            load_classifier(name)
    (zoo / "random.py").write_text("def build(): ...\n")
    with pytest.raises(ModelError, match=r"random\.py can't be imported: another module is called random"):
        load_classifier("random.py:build")


def test_a_pickled_module_as_weights_says_how_to_save_a_state_dict(zoo: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), "whole.pth")
    with pytest.raises(WeightsError, match=r"save one with torch.save\(model.state_dict\(\), ...\)"):
        load_classifier("zoo_of_mine:make_small", "whole.pth")


def test_a_module_level_model_and_late_imports_do_as_well(zoo: Path) -> None:
    assert len(load_classifier("zoo_of_mine:ready").labels) == 5
    assert len(load_classifier("zoo_of_mine:imports_lately").labels) == 4


def test_what_the_module_says_of_its_preprocessing_is_followed(zoo: Path) -> None:
    classifier = load_classifier("zoo_of_mine:configured")
    assert (classifier.mean, classifier.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert classifier.transform(np.zeros((50, 60, 3), np.uint8)).shape == (3, 64, 96)
    assert classifier.assumed == ""
    other = load_classifier("zoo_of_mine:configured", preprocessing="torchvision/resnet18")
    assert other.mean == (0.485, 0.456, 0.406)
    assert other.transform(np.zeros((50, 60, 3), np.uint8)).shape == (3, 224, 224)


def test_a_classifier_is_taken_as_it_is(zoo: Path) -> None:
    classifier = load_classifier("zoo_of_mine:classifier")
    assert (classifier.name, classifier.origin) == ("my net", "my own training")
    assert classifier.labels == ("a", "b", "c", "d")
    assert not classifier.model.training
    x = classifier.transform(np.full((64, 96, 3), 255, np.uint8))  # its steps take PIL pictures alone
    assert x.shape == (3, 32, 48)
    assert torch.all(x == 2)
    assert classifier.view(np.zeros((64, 96, 3), np.uint8)).box == pytest.approx((0, 0, 96, 64), abs=0.3)
    with pytest.raises(LabelsError, match="names 2 classes, my net has 4"):
        load_classifier("zoo_of_mine:miscounted")
    (zoo / "names.txt").write_text("w\nx\ny\nz")
    assert load_classifier("zoo_of_mine:miscounted", labels=zoo / "names.txt").labels == ("w", "x", "y", "z")


@pytest.mark.parametrize("function", ["make_small", "classifier"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_loaded_into_it_strictly(function: str, prefix: str, zoo: Path) -> None:
    state = load_classifier("zoo_of_mine:make_small").model.state_dict()
    changed = {key: torch.full_like(value, 0.25) for key, value in state.items()}
    torch.save({prefix + key: value for key, value in changed.items()}, zoo / "w.pth")
    classifier = load_classifier(f"zoo_of_mine:{function}", zoo / "w.pth")
    assert all(torch.equal(value, changed[key]) for key, value in classifier.model.state_dict().items())
    assert classifier.origin == f"file {zoo / 'w.pth'}"
    del changed["fc.bias"]
    changed["fc.weight"] = torch.zeros(7, 4)
    torch.save(changed, zoo / "w.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(fc\.bias\); 1 of another shape \(fc\.weight \(7, 4\) instead"):
        load_classifier(f"zoo_of_mine:{function}", zoo / "w.pth")


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        (
            "zoo_of_mina:make",
            UnknownModelError,
            r"no module zoo_of_mina, .*current directory .*near names: zoo_of_mine",
        ),
        ("nets_of_mine.smal:make", UnknownModelError, r"no module nets_of_mine\.smal, "),
        ("zoo_of_mine.sub:make", UnknownModelError, r"no module zoo_of_mine\.sub, "),
        ("zoo_of_mine:make_smal", UnknownModelError, "no function make_smal; near names: make_small"),
        ("zoo_of_mine:Small.buildd", UnknownModelError, r"no function Small\.buildd"),
        ("nets_of_mine.broken:make", ModelError, "can't be imported: ModuleNotFoundError: .*absent_library"),
        ("nets_of_mine.script:make", ModelError, "can't be imported: SystemExit: usage: script"),
        ("nets_of_mine.typo:make", ModelError, "can't be imported: SyntaxError"),
        ("zoo_of_mine:number", ModelError, "returns a int: it must be an nn.Module"),
        ("zoo_of_mine:NUMBERS", ModelError, "fails: TypeError: .*not callable"),
        ("zoo_of_mine:needs", ModelError, "fails: TypeError: .*argument"),
        ("zoo_of_mine:exits", ModelError, "fails: SystemExit: 2"),
        ("zoo_of_mine:raises", ModelError, "fails: RuntimeError: no weights here$"),
        ("zoo_of_mine:Dict", ModelError, r"returns a dict for 2 pictures, not one tensor \(B, classes\)"),
        ("zoo_of_mine:Map", ModelError, r"returns shape \(2, 4, 56, 56\) for 2 pictures"),
        ("zoo_of_mine:Mixed", ModelError, r"returns shape \(1, 4\) for 2 pictures"),
        ("zoo_of_mine:Grey", ModelError, r"returns shape \(2, 3, 222, 222\) for 2 pictures"),
        ("zoo_of_mine:Sized", ModelError, r"fails on pictures of shape \(3, 224, 224\): RuntimeError"),
        ("zoo_of_mine:unlifted", ModelError, "can't be put in evaluation mode"),
    ],
)
def test_every_failure_is_one_clear_line(name: str, kind: type[RelpropError], reason: str, zoo: Path) -> None:
    with pytest.raises(kind, match=reason) as caught:
        load_classifier(name)
    assert "\n" not in str(caught.value)
    assert str(zoo) not in sys.path


# --- exported programs ---


class _Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(x).relu().mean((2, 3)))
        return out


def _export(
    path: Path,
    model: nn.Module | None = None,
    *,
    shape: tuple[int, ...] = (2, 3, 40, 56),
    dynamic: tuple[int, ...] = (0,),
    dtype: torch.dtype = torch.float32,
) -> str:
    names = {axis: Dim(f"axis{axis}", min=8 if axis else 1) for axis in dynamic}
    x = torch.rand(shape, dtype=dtype)
    program = torch.export.export((model or _Net()).eval(), (x,), dynamic_shapes=(names or None,))
    torch.export.save(program, path)
    return str(path)


def test_a_program_brings_its_size_and_classes(tmp_path: Path) -> None:
    name = _export(tmp_path / "net.pt2")
    classifier = load_classifier(name)
    assert isinstance(classifier.model, ExportedProgram)
    assert classifier.origin == f"file {name}"
    assert len(classifier.labels) == 4
    assert "ImageNet" in classifier.assumed
    assert "56 x 40" in classifier.assumed
    x = classifier.transform(np.zeros((100, 100, 3), np.uint8))[None]
    assert x.shape == (1, 3, 40, 56)
    assert relprop.explain(classifier.model, x).relevance.shape == x.shape


def test_a_program_of_any_size_gets_pictures_of_its_example(tmp_path: Path) -> None:
    classifier = load_classifier(_export(tmp_path / "net.PT2", dynamic=(0, 2, 3)))
    assert classifier.transform(np.zeros((100, 100, 3), np.uint8)).shape == (3, 40, 56)


def test_a_program_with_the_preprocessing_of_a_model(tmp_path: Path) -> None:
    name = _export(tmp_path / "net.pt2", shape=(2, 3, 224, 224))
    classifier = load_classifier(name, preprocessing="vit_tiny_patch16_224")
    assert (classifier.mean, classifier.assumed) == ((0.5, 0.5, 0.5), "")
    other = _export(tmp_path / "other.pt2")
    with pytest.raises(ModelError, match="takes pictures of 56 x 40, its preprocessing makes 224 x 224"):
        load_classifier(other, preprocessing="vit_tiny_patch16_224")


class _Two(_Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class _Pixels(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shape": (1, 3, 40, 56), "dynamic": ()}, r"fixed at a batch of 1: export it .*Dim\(\"batch\"\)"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), "shape": (2, 2, 4)}, r"\(B, 2, 4\) float32"),
        ({"model": _Net().half(), "dtype": torch.float16}, r"\(B, 3, 40, 56\) float16"),
        ({"model": _Two()}, r"returns \(B, 4\) float32 and \(B, 3, 40, 56\) float32, not one tensor \(B, classes\)"),
        ({"model": _Pixels()}, r"returns \(B, 4, 10, 14\) float32, not one tensor \(B, classes\)"),
    ],
)
def test_a_program_that_is_no_classifier(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    name = _export(tmp_path / "net.pt2", **options)
    with pytest.raises(ModelError, match=reason) as caught:
        load_classifier(name)
    assert "\n" not in str(caught.value)


def test_a_program_refuses_other_weights(tmp_path: Path) -> None:
    name = _export(tmp_path / "net.pt2")
    with pytest.raises(WeightsError, match=r"net\.pt2 carries its own weights: leave out --weights w\.pth"):
        load_classifier(name, Path("w.pth"))
    with pytest.raises(WeightsError, match="is an exported program, not a file of weights"):
        load_classifier("resnet10t", Path(name))


@pytest.mark.parametrize("content", [None, b"", b"no program"])
def test_a_file_that_is_no_program(content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if content is not None:
        (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(CaptureError, match=r"net\.pt2 can't be read as an exported program") as caught:
        load_classifier(str(tmp_path / "net.pt2"))
    assert "\n" not in str(caught.value)
    assert not caplog.records  # PyTorch logs a page


def test_a_function_may_return_a_program(zoo: Path) -> None:
    classifier = load_classifier("zoo_of_mine:exported")
    assert isinstance(classifier.model, ExportedProgram)
    assert classifier.transform(np.zeros((9, 9, 3), np.uint8)).shape == (3, 40, 56)
    with pytest.raises(WeightsError, match="leave out --weights"):
        load_classifier("zoo_of_mine:exported", Path("w.pth"))


def test_a_program_goes_where_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = _export(tmp_path / "net.pt2")
    assert load_classifier(name, device="cpu").device == torch.device("cpu")
    monkeypatch.setattr(load, "find_device", torch.device)  # "meta" stands for a device that is there
    classifier = load_classifier(name, device="meta")
    assert classifier.device == torch.device("meta")
    assert {tensor.device.type for tensor in classifier.model.state_dict.values()} == {"meta"}


def test_pictures_of_a_classifier_need_no_labels(zoo: Path) -> None:
    classifier = load_classifier("zoo_of_mine:make_small")
    assert isinstance(classifier, Classifier)
    picture = np.full((300, 300, 3), 77, np.uint8)
    assert (classifier.pictures(classifier.transform(picture)[None]) == 77).all()
