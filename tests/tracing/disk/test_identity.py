"""What a capture depends on in words: equal in another process, another after any change that could change a graph."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relprop.tracing.disk import identity
from relprop.tracing.disk.graph_writing import NotWritableError
from relprop.tracing.disk.identity import describe_model, describe_software
from relprop.tracing.reach import reach

SCALE = 1.0


def scaled(x: Tensor) -> Tensor:
    return x * SCALE


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.1)
        self.act: Callable[[Tensor], Tensor] = torch.relu
        self.settings: dict[str, Any] = {"groups": [1, 2], "shape": (2, 2)}
        self.register_buffer("index", torch.arange(4))
        self.register_buffer("power", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return scaled(self.act(self.norm(self.conv(x)))) ** self.power


def build() -> nn.Module:
    return nn.Sequential(Block(), nn.Flatten(), nn.Linear(4, 2)).eval()


def described(model: nn.Module) -> list[Any]:
    return describe_model(model, reach(model).tensors)


def shout(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def whisper(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 0.5


def _set(path: str, name: str, value: Any) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model.get_submodule(path), name, value)


def _tie(model: Any) -> None:
    model[0].norm.bias = model[0].norm.weight


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a stride": _set("0.conv", "stride", (2, 2)),
    "a padding": _set("0.conv", "padding", (1, 1)),
    "eps": _set("0.norm", "eps", 1e-3),
    "a function": _set("0", "act", torch.tanh),
    "a lambda": _set("0", "act", lambda x: x),
    "a partial": _set("0", "act", partial(torch.clamp, min=0.0)),
    "a setting inside a list": lambda m: m[0].settings["groups"].append(3),
    "a setting inside a dict": lambda m: m[0].settings.update(shape=(2, 3)),
    "a new attribute": _set("0", "mode", "fast"),
    "a number of another type": lambda m: m[0].settings.update(groups=[True, 2]),
    "a hook": lambda m: m[0].register_forward_hook(shout),
    "another hook": lambda m: m[0].register_forward_hook(whisper),
    "a hook before": lambda m: m[0].register_forward_pre_hook(lambda module, args: None),
    "an integer of a buffer": lambda m: m[0].index.add_(1),
    "a number that is a tensor": lambda m: m[0].power.add_(1),
    "a type": lambda m: m[2].double(),
    "a weight of another shape": _set("2", "weight", nn.Parameter(torch.ones(3, 4))),
    "tied weights": _tie,
    "no bias": _set("0.conv", "bias", None),
    "another class": lambda m: m.insert(1, nn.Identity()),
    "a class of the same name": lambda m: m.__setitem__(1, type("Flatten", (nn.Flatten,), {"__module__": __name__})()),
    "a forward of one's own": lambda m: setattr(m[1], "forward", MethodType(lambda self, x: x.flatten(1), m[1])),
    "training": lambda m: m[0].drop.train(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_another_identity(change: Callable[[Any], Any]) -> None:
    model = build()
    before = described(model)
    assert described(build()) == before
    change(model)
    assert described(model) != before


def test_values_of_weights_are_no_part() -> None:
    model = build()
    before = described(model)
    with torch.no_grad():
        model[0].conv.weight.mul_(3)
        model[0].norm.weight.fill_(2)
    assert described(model) == before


@pytest.mark.parametrize("name", ["forward", "extra_repr"])
def test_a_function_that_was_exchanged_in_its_class_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = described(build())
    monkeypatch.setattr(nn.Linear, name, lambda self, x=None: x)
    assert described(build()) != before


def test_a_number_of_the_module_that_code_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reading(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * SCALE

    model = nn.Sequential(Reading()).eval()
    before = described(model)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 2.0)
    assert described(model) != before


@pytest.mark.parametrize(
    "value", [open, object(), memoryview(b""), iter(range(3))], ids=["a file", "an object", "memory", "an iterator"]
)
def test_what_only_this_process_knows_has_no_identity(value: Any, tmp_path: Path) -> None:
    model = build()
    model[0].extra = value if value is not open else (tmp_path / "x").open("w")
    with pytest.raises(NotWritableError):
        described(model)


def test_the_types_and_versions_at_work_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_software()
    assert describe_software() == before
    monkeypatch.setattr(identity, "versions", lambda: {"torch": "0"})
    assert describe_software() != before


@pytest.mark.parametrize(("folder", "counts"), [("mine", True), ("site-packages", False), ("dist-packages", False)])
def test_sources_count_that_are_not_installed(
    folder: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "some_helper.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path / folder)
    before = describe_software()
    importlib.import_module("some_helper")
    try:
        assert (describe_software() != before) is counts
    finally:
        del sys.modules["some_helper"]


SCRIPT = """
import hashlib, json, sys, torch
sys.path.insert(0, {folder!r})
import own
from relprop.tracing.disk.identity import describe_model, describe_software
from relprop.tracing.reach import reach
model = own.Net().eval()
text = json.dumps([describe_model(model, reach(model).tensors), describe_software()])
print(hashlib.sha256(text.encode()).hexdigest())
"""
OWN = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.names = {{"a", "b", "c"}}
    def forward(self, x):
        return self.layer(x) {what} if "a" in {{"a", "b", "c"}} else x
"""


@pytest.mark.full
def test_another_process_finds_the_same_until_the_source_changes(tmp_path: Path) -> None:
    def run(what: str) -> str:
        (tmp_path / "own.py").write_text(OWN.format(what=what))
        script = SCRIPT.format(folder=str(tmp_path))
        return subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, check=True).stdout

    first = run("")
    assert run("") == first
    assert run("+ 1") != first
