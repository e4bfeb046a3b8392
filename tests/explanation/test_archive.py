"""Files of an explanation, and the numbers that belong to each of its samples alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import relprop
from relprop.explanation import explanation as explaining
from relprop.explanation.maps import class_probabilities
from tests.helpers.models import Lambda, Plain, pictures, seeded


@pytest.mark.full
def test_a_picture_asks_for_no_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = relprop.explain(seeded(Plain), pictures(2))

    def refuse(_: object) -> None:
        raise AssertionError("all maps are copied to the CPU")

    monkeypatch.setattr(explaining, "archive_items", refuse)
    e.save(tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 1000
    with pytest.raises(AssertionError):
        e.save(tmp_path / "maps.npz")


def test_a_sample_has_the_same_probability_alone_and_beside_others() -> None:
    """No value of a row, nor of another, says what makes probabilities: only the graph does, or the user."""
    output = torch.tensor([[0.2, 0.3, 0.5], [2.0, -1.0, 0.5], [0.1, 0.1, 0.1]])
    together = class_probabilities(output)
    for k in range(3):
        assert torch.equal(together[k : k + 1], class_probabilities(output[k : k + 1]))
    torch.testing.assert_close(together, output.softmax(1))
    e = relprop.explain(seeded(lambda: Lambda(lambda m, x: x @ m.eye, eye=nn.Parameter(torch.eye(3)))), output)
    assert torch.equal(e[0].probability, e.probability[:1])


def test_a_host_keeps_its_warning_filters() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        relprop.explain(seeded(Plain), pictures(2))
        assert warnings.filters == before
