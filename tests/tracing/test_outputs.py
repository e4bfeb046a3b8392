"""One of a model's outputs, however it is packed: named by the way there, explained as the model that returns it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.errors import CaptureError
from relprop.tracing.outputs import choose_output
from tests.helpers.models import Lambda, seeded


@dataclass
class Heads:
    scores: Tensor
    boxes: Tensor


class Pair(NamedTuple):
    features: Tensor
    heads: Any


PACKED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "tuple of dicts": (lambda f, s: (f, {"scores": s, "boxes": f}), "1.scores"),
    "dict of lists": (lambda f, s: {"levels": [f, s], "size": 3}, "levels.1"),
    "dataclass": (lambda f, s: Heads(s, f), "scores"),
    "dataclass in a dict": (lambda f, s: {"features": f, "heads": Heads(s, f)}, "heads.scores"),
    "dataclass in a named tuple": (lambda f, s: Pair(f, Heads(s, f)), "heads.scores"),
    "namespace": (lambda f, s: SimpleNamespace(features=f, logits=s), "logits"),
    "what holds one tensor": (lambda f, s: {"features": f, "head": [{"scores": s}]}, "head"),
    "a key with a dot": (lambda f, s: {"head.scores": s, "features": f}, "head.scores"),
}


@pytest.mark.parametrize("name", PACKED)
def test_an_output_is_named_by_the_way_there(name: str) -> None:
    pack, output = PACKED[name]
    scores, features = torch.rand(2, 3), torch.rand(2, 4)
    assert choose_output(pack(features, scores), output)[0] is scores


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("name", ["tuple of dicts", "dataclass in a dict", "namespace"])
def test_a_packed_output_is_explained_as_if_it_were_returned_alone(name: str) -> None:
    pack, output = PACKED[name]
    inner = seeded(lambda: nn.Linear(6, 3)).double().eval()
    x = torch.randn(2, 6, dtype=torch.float64)
    packed = Lambda(lambda m, x: pack(x.sigmoid(), m.inner(x)), inner=inner).eval()
    expected = relprop.explain(inner, x, target=1).relevance
    assert torch.equal(relprop.explain(packed, x, target=1, output=output).relevance, expected)


def test_what_holds_several_tensors_is_refused_by_name() -> None:
    returned = {"features": torch.rand(2, 4), "heads": Heads(torch.rand(2, 3), torch.rand(2, 4))}
    with pytest.raises(CaptureError, match=r"'heads' of the model holds 2 tensors: .*heads\.scores \(2, 3\)"):
        choose_output(returned, "heads")
    with pytest.raises(CaptureError, match=r"no output 'head'; there are: features \(2, 4\), heads\.scores \(2, 3\)"):
        choose_output(returned, "head")
