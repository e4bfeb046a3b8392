"""Errors name the options that would help, as whoever reads them writes options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from relprop.cli.app import _as_option
from tests.helpers.models import Lambda, Plain, pictures, seeded


def raised(**options: object) -> relprop.RelpropError:
    two = seeded(lambda: Lambda(lambda m, x: (m.head(x), m.head(x) * 2), head=nn.Linear(4, 3)))
    with pytest.raises(relprop.RelpropError) as caught:
        relprop.explain(two, torch.randn(2, 4), **options)  # type: ignore[arg-type]
    return caught.value


def test_python_reads_arguments_and_the_shell_options() -> None:
    error = raised()
    assert "say which of its outputs is meant with output=..., or" in str(error)
    assert "with --model-output NAME, or" in error.spell(_as_option)
    model = seeded(lambda: nn.Linear(4, 3))
    with pytest.raises(relprop.TargetError) as caught:
        relprop.explain(model, torch.randn(2, 4), target=lambda output: output[:, 0], contrast="rest")
    assert str(caught.value).endswith("pass contrast=None")
    assert caught.value.spell(_as_option).endswith("pass --contrast none")


@pytest.mark.parametrize(
    "name", ["contrst", "layer", "batchsize", "hook"], ids=["contrast", "layers", "batch_size", "hooks"]
)
def test_an_unknown_option_is_named_with_its_neighbour(name: str, request: pytest.FixtureRequest) -> None:
    near = request.node.callspec.id
    for function in (relprop.explain, relprop.check):
        with pytest.raises(TypeError, match=rf"{function.__name__}\(\) has no option '{name}'; near names: {near}"):
            function(seeded(Plain), pictures(1), **{name: None})  # type: ignore[operator]
    with pytest.raises(TypeError, match=near):
        relprop.Explainer(seeded(Plain), **{name: None})  # type: ignore[arg-type]


def test_options_are_shown_by_help() -> None:
    import inspect

    for function in (relprop.explain, relprop.Explainer, relprop.check):
        shown = inspect.signature(function).parameters
        assert {"rules", "contrast", "layers", "at", "output", "batch_size", "hooks", "compile"} <= set(shown)
        assert shown["rules"].default == "abslrp"
