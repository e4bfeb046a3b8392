"""Exported programs of strangers are not loaded where that would carry out what they wrote."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import relprop
from relprop.errors import CaptureError
from relprop.tracing.loading import load_exported
from relprop.tracing.program_file import unsafe_part

Change = Callable[[str, bytes, Path], bytes]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    exported = torch.export.export(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(exported, path)
    return path


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = str(victim)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.victim, "w")


def pickled(name: str, content: bytes, victim: Path) -> bytes:
    if "sample_inputs" not in name:
        return content
    buffer = io.BytesIO()
    torch.save(((Touch(victim),), {}), buffer)
    return buffer.getvalue()


def described(change: Callable[[Any, Path], None]) -> Change:
    def changed(name: str, content: bytes, victim: Path) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        description = json.loads(content)
        change(description, victim)
        return json.dumps(description).encode()

    return changed


def expressions(value: Any, victim: Path) -> None:
    for item in value if isinstance(value, list) else ():
        expressions(item, victim)
    for key, item in list(value.items()) if isinstance(value, dict) else ():
        if key == "expr_str":
            value[key] = f"open({str(victim)!r}, 'w')"
        expressions(item, victim)


def operations(description: Any, victim: Path) -> None:
    description["graph_module"]["graph"]["nodes"][1]["target"] = "torch.hub.load"


def guards(description: Any, victim: Path) -> None:
    description["guards_code"] = [f"open({str(victim)!r}, 'w')"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pickled, "more than tensors"),
        (described(expressions), "would be evaluated"),
        (described(operations), "none of PyTorch's"),
        (described(guards), "guards, which would be compiled"),
    ],
)
def test_what_would_be_carried_out_is_refused(program: Path, tmp_path: Path, change: Change, words: str) -> None:
    hostile, victim = tmp_path / "hostile.pt2", tmp_path / "victim"
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(hostile, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name), victim))
    with pytest.raises(CaptureError, match=words) as told:
        load_exported(hostile)
    assert "trust=True" in str(told.value)
    with pytest.raises(CaptureError, match=r"torch\.export\.load"):
        relprop.explain(hostile, torch.randn(2, 3, 8, 8))
    assert os.listdir(tmp_path) == ["hostile.pt2"]


def test_programs_of_tensors_and_sizes_need_no_trust(program: Path) -> None:
    assert unsafe_part(program) is None
    assert isinstance(load_exported(program), ExportedProgram)
