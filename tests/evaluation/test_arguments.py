"""What `relprop.evaluate` is given is looked at before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import relprop
from relprop.evaluation import DataError
from relprop.evaluation.methods import make_methods
from relprop.evaluation.methods.named import MethodContext
from relprop.evaluation.settings import stored_maps
from relprop.store.config import differences
from tests.helpers.evaluations import inputs
from tests.helpers.models import Plain, seeded


@pytest.mark.parametrize("shard", [3, (0,), (0, 1, 5), (2, 2), (-1, 2), (False, True), "0/1"])
def test_a_shard_is_two_numbers(tmp_path: Path, shard: Any) -> None:
    with pytest.raises(DataError, match=r"shard is \(i, n\), part i of n counted from 0"):
        relprop.evaluate(seeded(Plain), inputs(), "constant", tmp_path / "run.h5", shard=shard)
    assert not (tmp_path / "run.h5").exists()


@pytest.mark.parametrize("relevance", [["map"], {"map": 1}, 2, "maps", 1.0, 0])
def test_what_is_kept_of_maps_is_one_of_three(relevance: Any) -> None:
    with pytest.raises(relprop.InputError, match="relevance must be False"):
        stored_maps(relevance)


@pytest.mark.parametrize(
    ("relevance", "kept"), [(False, None), (None, None), (True, "summed"), ("map", "summed"), ("channels", "channels")]
)
def test_what_is_kept_of_maps(relevance: Any, kept: str | None) -> None:
    assert stored_maps(relevance) == kept


def test_the_output_explained_is_part_of_a_method() -> None:
    model = seeded(Plain)
    configs = []
    for output in (None, "logits"):
        explainer = relprop.Explainer(model, output=output)
        configs.append(dict(make_methods({"a": explainer}, MethodContext(model))["a"].config))
    assert differences(configs[0], configs[1]) == {"output": ("null", '"logits"')}


def test_a_key_that_an_older_file_lacks_means_none() -> None:
    assert differences({"at": None}, {"at": None, "output": None}) == {}
    assert differences({"at": None}, {"at": None, "output": 1}) == {"output": ("null", "1")}
