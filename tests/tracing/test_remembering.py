"""Models that remember the last batch have one graph, for every batch, whatever was called before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import CaptureError
from tests.helpers import remembering
from tests.helpers.models import CLASSES, Lambda, distance, gradient, pictures, seeded

ANCHOR = 7
ROOT = Path(__file__).parents[2]


def score(returned: tuple[Tensor, list[Tensor]]) -> Tensor:
    return returned[0][:, 4 + 2, ANCHOR]


def width(returned: tuple[Tensor, list[Tensor]]) -> Tensor:
    return returned[0][:, 2, ANCHOR]


def of_autograd(model: nn.Module, x: Tensor, target: Any) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(target(model(leaf)).sum(), leaf)
    return found


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize(("batch", "target"), [(None, score), (1, width), (3, score), (2, width)])
def test_a_detection_head(batch: int | None, target: Any) -> None:
    """After no call, and after calls with as many samples as are explained, as in an example, and with others."""
    model, x = seeded(remembering.Detector).double(), pictures(3).double()
    if batch is not None:
        model(pictures(batch).double())
    before = dict(vars(model.head))
    found = relprop.explain(model, x, target=target, rules="gradient")
    e = relprop.explain(model, x, target=target)
    assert vars(model.head).keys() == before.keys()
    assert all(value is before[name] for name, value in vars(model.head).items())
    assert distance(found.relevance, of_autograd(model, x, target)) <= 1e-9
    assert e.conservation.error <= 1e-9


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("kind", remembering.KINDS)
def test_other_memories(kind: str) -> None:
    remembering.TableByShape.table.clear()
    model, x = seeded(remembering.KINDS[kind]).double(), pictures(3).double()
    model(pictures(3, seed=2).double())
    table = getattr(model, "table", {})
    before, held = dict(vars(model)), dict(table)
    explainer = relprop.Explainer(model, rules="gradient")
    found = explainer(x)
    assert all(value is before[name] for name, value in vars(model).items())
    assert (table, len(getattr(model, "sizes", [0]))) == (held, 1)
    assert distance(found.relevance, gradient(model, x)) <= 1e-9
    other = pictures(1).double()
    assert distance(explainer(other).relevance, gradient(model, other)) <= 1e-9
    assert relprop.explain(model, x).conservation.error <= 1e-9


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.head(x) * (2.0 if x.shape[0] > 4 else 1.0),
        lambda m, x: m.head(x) * (2.0 if x.shape[0] % 2 else 1.0),
        lambda m, x: m.head(x.view(2, -1)),
    ],
    ids=["more than four", "odd", "two"],
)
def test_what_depends_on_the_batch_is_refused(forward: Any) -> None:
    """That is no memory: the graph would be wrong for other batches."""
    model = Lambda(forward, head=nn.Linear(8, CLASSES)).eval()
    with pytest.raises(CaptureError, match="could not trace Lambda"):
        relprop.explain(model, torch.randn(2, 8))


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize(("size", "batch"), [(2, ""), (6, " for a batch of 6")])
def test_one_batch_size_that_is_treated_apart_is_refused(size: int, batch: str) -> None:
    """It looks like one that is remembered, and is told from it by a call."""
    model = Lambda(lambda m, x: m.head(x) * (2.0 if x.shape[0] == size else 1.0), head=nn.Linear(8, CLASSES)).eval()
    with pytest.raises(CaptureError, match=f"graph of Lambda{batch} computes something else"):
        relprop.explain(model, torch.randn(2, 8))


@pytest.mark.full
@pytest.mark.parametrize(("name", "row", "batch"), [("yolov8n.yaml", "score", 3), ("yolo11n.yaml", "box", 1)])
def test_detectors_of_ultralytics(name: str, row: str, batch: int, tmp_path: Path) -> None:
    """Untrained, made from their own descriptions."""
    if find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    settings = {"YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.helpers.yolo", name, row, str(batch)]
    run = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["gradient"] <= 1e-9
    assert found["conservation"] <= 1e-9
    assert found["unchanged"]
