"""The cache of captured graphs: never an error, never a wrong graph, and less work where it can be had."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.tracing import capture
from relprop.tracing.disk import cache as disk
from relprop.tracing.disk import folder
from tests.helpers.models import CLASSES, KINDS, Lambda, make, pictures, seeded


def forward(m: Any, x: Tensor) -> Tensor:
    return m.head(m.conv(x).relu().mean((2, 3)))


def build(seed: int = 0) -> nn.Module:
    return seeded(lambda: Lambda(forward, conv=nn.Conv2d(3, 8, 3), head=nn.Linear(8, CLASSES)), seed)


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    before = folder._chosen
    relprop.cache(tmp_path / "cache")
    yield tmp_path / "cache"
    folder._chosen = before


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything that is traced from now on."""
    seen: list[Any] = []
    trace = capture.trace
    monkeypatch.setattr(capture, "trace", lambda *args: seen.append(args) or trace(*args))
    return seen


def files(where: Path) -> list[Path]:
    return sorted(where.glob("*.graph"))


@pytest.mark.sweep(every=12)
@pytest.mark.parametrize("kind", ["plain", "convolutional", "transformer", "windows", "heads", "encoder"])
def test_another_model_of_the_same_kind_needs_no_capture(kind: str, where: Path, exports: list[Any]) -> None:
    x = KINDS[kind][1](3)
    relprop.explain(make(kind), x)
    assert (len(exports), len(files(where))) == (1, 1)
    model = make(kind, seed=1)
    found = relprop.explain(model, x)
    assert len(exports) == 1
    relprop.cache(False)
    wanted = relprop.explain(make(kind, seed=1), x)
    assert len(exports) == 2
    torch.testing.assert_close(found.output, wanted.output, rtol=0, atol=0)
    torch.testing.assert_close(found.relevance, wanted.relevance, rtol=0, atol=0)
    assert found.conservation.error == wanted.conservation.error
    assert relprop.gradient_oracle_error(model, x) <= 1e-9


def test_it_is_off_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_chosen", None)
    monkeypatch.delenv(folder.VARIABLE, raising=False)
    assert folder.folder() is None
    assert folder.folder(default=True) == folder.default_folder()
    for value, wanted in {"0": None, "1": folder.default_folder(), str(tmp_path): tmp_path}.items():
        monkeypatch.setenv(folder.VARIABLE, value)
        assert folder.folder() == wanted
        assert folder.folder(default=True) == wanted
    assert relprop.cache(False) is None
    assert folder.folder(default=True) is None


def test_a_target_that_is_a_function_is_captured_every_time(where: Path, exports: list[Any]) -> None:
    for _ in range(2):
        relprop.explain(build(), pictures(2), target=lambda o: o[:, 1])
    assert len(exports) == 2
    assert files(where) == []


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def _rewrite(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def rewrite(file: Path) -> None:
        content = json.loads(gzip.decompress(file.read_bytes()))
        change(content)
        file.write_bytes(gzip.compress(json.dumps(content).encode()))

    return rewrite


def _retarget(content: Any) -> None:
    node = next(n for n in content["graph"]["nodes"] if n["target"] == "aten::relu")
    node["target"] = "aten::tanh"


DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "flipped": _flip,
    "empty": lambda file: file.write_bytes(b""),
    "no gzip": lambda file: file.write_bytes(b"{}"),
    "another key": _rewrite(lambda content: content.update(key="")),
    "a list": lambda file: file.write_bytes(gzip.compress(b"[]")),
    "deep": lambda file: file.write_bytes(gzip.compress(b"[" * 100_000)),
    "no nodes": _rewrite(lambda content: content.update(graph={})),
    "another operation": _rewrite(_retarget),
    "another input": _rewrite(lambda content: content["graph"].update(inputs=[])),
    "another weight": _rewrite(lambda content: content["graph"]["tensors"].update(conv_bias=99)),
}


@pytest.mark.sweep(every=33)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_or_forged_file_is_none(damage: Callable[[Path], None], where: Path, exports: list[Any]) -> None:
    x = pictures(2)
    wanted = relprop.explain(build(), x)
    (file,) = files(where)
    whole = gzip.decompress(file.read_bytes())
    damage(file)
    found = relprop.explain(build(), x)
    assert len(exports) == 2
    torch.testing.assert_close(found.relevance, wanted.relevance, rtol=0, atol=0)
    assert gzip.decompress(file.read_bytes()) == whole, "it is written anew"


def test_what_can_not_be_written_is_no_error(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where.write_text("a file, where a folder should be")
    relprop.explain(build(), pictures(2))
    where.unlink()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    relprop.explain(build(), pictures(2))
    assert list(where.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="every folder is writable for root")
def test_a_folder_that_is_read_only_is_no_error(where: Path) -> None:
    where.mkdir(mode=0o500)
    relprop.explain(build(), pictures(2))
    assert files(where) == []


@pytest.mark.full
def test_a_file_of_another_user_is_not_read(where: Path, exports: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    relprop.explain(build(), pictures(2))
    monkeypatch.setattr(disk.os, "getuid", lambda: 12345)
    relprop.explain(build(), pictures(2))
    assert len(exports) == 2


def test_its_size_is_bounded_and_what_was_used_last_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(5):
        file = tmp_path / f"{k}.graph"
        file.write_bytes(bytes(100))
        os.utime(file, (k, k))
    (tmp_path / "notes.txt").write_bytes(bytes(1000))
    monkeypatch.setattr(folder, "MAX_BYTES", 250)
    folder.shrink(tmp_path)
    assert [file.name for file in folder.entries(tmp_path)] == ["4.graph", "3.graph"]
    assert folder.clear_cache(tmp_path) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_record_of_a_verification_is_found_by_another_process(where: Path) -> None:
    graph = relprop.capture(build(), (pictures(2),))
    assert disk.verified_error(graph) is None
    disk.record_verified(graph, 1e-15)
    again = relprop.capture(build(1), (pictures(2),))
    assert disk.verified_error(again) == 1e-15
    relprop.cache(False)
    assert disk.verified_error(relprop.capture(build(2), (pictures(2),))) is None


SCRIPT = """
import sys, torch, relprop
from tests.tracing.disk.test_cache import build
from tests.helpers.models import pictures
relprop.cache(sys.argv[1])
print(float(relprop.explain(build(), pictures(2)).relevance.double().abs().sum()))
"""


@pytest.mark.full
def test_processes_at_once_share_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cache")]
    root = Path(__file__).parents[3]
    for _ in range(2):
        running = [
            subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        ended = [process.communicate() for process in running]
        assert [process.returncode for process in running] == [0, 0, 0], ended
        assert len({out for out, _ in ended}) == 1
    assert len(files(tmp_path / "cache")) == 1
