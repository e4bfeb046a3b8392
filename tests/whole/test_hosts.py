"""What a program that explains in loops, threads and processes meets."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop.errors import CaptureError, InputError, TargetError
from relprop.tracing import capture as capturing
from relprop.tracing.export import _WithoutThisThread
from tests.helpers.models import Lambda, seeded


@pytest.fixture(scope="module")
def masked() -> nn.Module:
    """Rule out class 1."""
    return seeded(
        lambda: Lambda(
            lambda m, x: m.last(x.flatten(1)).masked_fill(m.out, float("-inf")),
            last=nn.Linear(12, 3),
            out=nn.Buffer(torch.tensor([False, True, False])),
        )
    )


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 2, 2)


def test_a_class_that_is_ruled_out_is_no_target(masked: nn.Module, x: Tensor) -> None:
    assert relprop.explain(masked, x, target=0).relevance.abs().sum() > 0
    with pytest.raises(TargetError, match="output of class 1 is -inf for sample 0"):
        relprop.explain(masked, x, target=1)


def test_a_lambda_in_a_loop_is_captured_once_for_each_value(
    masked: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = capturing._capture
    captured = []

    def counting(*args: Any) -> Any:
        captured.append(args)
        return real(*args)

    monkeypatch.setattr(capturing, "_capture", counting)
    found = {}
    for k in (0, 2, 0, 2):
        found[k] = relprop.explain(masked, x, target=lambda output, k=k: output[:, k]).relevance
    assert len(captured) == 2
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_plain_values_are_told(masked: nn.Module, x: Tensor, kind: str) -> None:
    given = x.to_sparse() if kind == "sparse" else x.to("meta")
    with pytest.raises(InputError, match=f"is a {kind} tensor"):
        relprop.explain(masked, given)


def test_a_model_without_values_is_told(x: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, device="meta")).eval()
    with pytest.raises(CaptureError, match=r"1\.weight is a meta tensor"):
        relprop.explain(model, x)


def test_an_explainer_goes_to_another_process() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    explainer = relprop.Explainer(model, rules=rule_registry.get("abslrp", delta=0.02))
    again = pickle.loads(pickle.dumps(explainer))
    assert again.rules is explainer.rules


def test_while_a_capture_runs_stderr_stays_a_stream() -> None:
    stream = _WithoutThisThread(sys.__stderr__)
    assert stream.fileno() == sys.__stderr__.fileno()
    assert stream.encoding == sys.__stderr__.encoding
    assert stream.buffer is sys.__stderr__.buffer
    assert stream.write("dropped") == 7
