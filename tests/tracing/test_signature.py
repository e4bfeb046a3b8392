"""What a capture depends on in its inputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.tracing.inputs import Inputs, check_inputs
from tests.helpers.models import Lambda, distance, seeded


def scaled() -> nn.Module:
    """A model that branches on the type of a number."""

    def forward(m: Lambda, x: Tensor, factor: object) -> Tensor:
        return m.head(x) if factor is True else m.head(x * 2) + m.head(x).relu()

    return seeded(lambda: Lambda(forward, head=nn.Linear(4, 3)))


def test_equal_numbers_of_unlike_types_have_captures_of_their_own() -> None:
    model, x = scaled(), torch.randn(2, 4)
    for factor in (1, True, 1.0):
        with torch.no_grad():
            expected = model(x, factor)
        assert distance(relprop.explain(model, (x, factor)).output, expected) < 1e-6


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("number", [math.nan, -0.0, 0.5])
def test_a_number_finds_its_capture_again(number: float) -> None:
    model = seeded(lambda: Lambda(lambda m, x, c: m.head(x), head=nn.Linear(4, 3)))
    x = torch.randn(2, 4)
    graphs = [relprop.capture(model, (x, float(number))) for _ in range(2)]
    assert graphs[0] is graphs[1]


def test_two_samples_copy_no_more_than_two(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    concatenate = torch.cat

    def counted(tensors: list[Tensor], dim: int = 0) -> Tensor:
        made.append(sum(len(tensor) for tensor in tensors))
        return concatenate(tensors, dim)

    monkeypatch.setattr(torch, "cat", counted)
    x = torch.randn(1000, 3)
    two = check_inputs(x, None).samples(2)
    assert two.tensors[0].shape == (2, 3)
    assert two.tensors[0].untyped_storage().nbytes() == 2 * 3 * 4
    assert max(made, default=0) <= 2
    assert check_inputs(x[:1], None).samples(2).tensors[0].shape == (2, 3)


@pytest.mark.parametrize("first", [torch.tensor(2.0), torch.tensor(3)])
def test_a_number_in_front_does_not_hide_the_samples(first: Tensor) -> None:
    model = seeded(lambda: Lambda(lambda m, scale, x: m.head(x * scale), head=nn.Linear(4, 3)))
    x = torch.randn(5, 4)
    inputs = check_inputs((first, x), None)
    assert inputs.batched == (False, True)
    assert inputs.batch_size == 5
    e = relprop.explain(model, (first, x))
    with torch.no_grad():
        assert distance(e.output, model(first, x)) < 1e-6


def test_inputs_are_mapped_in_order() -> None:
    inputs = check_inputs((torch.zeros(3, 2), 7), {"mask": torch.ones(5), "more": [torch.zeros(3)]})
    assert inputs.batched == (True, False, True)
    args, kwargs = inputs.map(lambda tensor, batched: (tuple(tensor.shape), batched), lambda leaf: leaf + 1)
    assert args == (((3, 2), True), 8)
    assert kwargs == {"mask": ((5,), False), "more": [((3,), True)]}
    assert isinstance(inputs.plain(), Inputs)
