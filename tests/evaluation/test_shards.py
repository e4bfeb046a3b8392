"""The same bits, however it was done: shards, orders, units, generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from relprop.evaluation import (
    evaluate,
)
from relprop.store import merge
from tests.helpers.evaluations import METHODS, SCORES, assert_same, contents, inputs, run
from tests.helpers.models import kept


@pytest.mark.full
def test_every_order_of_methods_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ("deletion", "insertion", "srg"), "relevance": "channels"}
    run(tmp_path / "run.h5", METHODS[::-1], **options)
    assert_same(contents(tmp_path / "run.h5"), contents(whole))


@pytest.mark.full
def test_methods_added_later_give_the_same_bits_and_repeat_no_masking_run(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    options: dict[str, Any] = {"metrics": ("deletion", "insertion", "srg"), "relevance": "channels"}
    run(path, METHODS[:1], **options)
    for name in METHODS[1:]:
        found = run(path, [name], resume=True, **options)
        assert found.seconds["masking"] == 0
        assert found.complete
    assert_same(contents(path), contents(whole))


def test_three_shards_merged_are_the_single_run(whole: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"{part}.h5" for part in range(3)]
    options: dict[str, Any] = {"metrics": ("deletion", "insertion", "srg"), "relevance": "channels"}
    for part, path in enumerate(parts):
        assert run(path, shard=(part, 3), **options).complete
    merge(parts, tmp_path / "run.h5")
    assert_same(contents(tmp_path / "run.h5"), contents(whole))
    with h5py.File(tmp_path / "run.h5") as merged, h5py.File(whole) as single:
        assert merged.attrs["config_sha256"] == single.attrs["config_sha256"]


@pytest.mark.full
@pytest.mark.parametrize(("unit", "batch_size"), [(1, 32), (3, 7), (6, 500)])
def test_other_units_make_the_same_choices_and_scores_up_to_rounding(
    whole: Path, tmp_path: Path, unit: int, batch_size: int
) -> None:
    run(tmp_path / "run.h5", unit=unit, batch_size=batch_size)
    found, expected = contents(tmp_path / "run.h5"), contents(whole)
    for name in ("mosaic_members", "quadrant", "prediction", "target"):
        np.testing.assert_array_equal(found[f"samples/{name}"], expected[f"samples/{name}"])
    for method in METHODS:
        for name in SCORES:
            key = f"methods/{method}/{name}"
            np.testing.assert_allclose(found[key], expected[key], atol=1e-5, err_msg=key)


def test_stochastic_methods_follow_from_seed_and_unit(tmp_path: Path) -> None:
    def noisy(x: Tensor, target: Tensor) -> Tensor:
        return torch.rand(x.shape) + torch.from_numpy(np.random.rand(*x.shape))

    before = torch.get_rng_state()
    run(tmp_path / "a.h5", {"noisy": noisy})
    torch.rand(3)
    run(tmp_path / "b.h5", {"constant": "constant", "noisy": noisy})
    torch.set_rng_state(before)
    a, b = contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5")
    assert a["methods/noisy/gae"].tobytes() == b["methods/noisy/gae"].tobytes()
    run(tmp_path / "c.h5", {"noisy": noisy}, seed=1)
    assert (
        a["methods/noisy/faithfulness"].tobytes() != contents(tmp_path / "c.h5")["methods/noisy/faithfulness"].tobytes()
    )


def test_the_users_generators_are_left_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    run(tmp_path / "run.h5", {"noisy": lambda x, target: torch.rand_like(x)}, count=8)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = kept("plain")
    before = {name: (id(p), p._version, p.requires_grad, p.grad) for name, p in model.named_parameters()}
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()]
    methods = "abslrp,captum.GuidedBackprop,grad-cam.GradCAM,zennit.EpsilonPlus"
    evaluate(model, inputs(8), methods, tmp_path / "run.h5")
    assert {name: (id(p), p._version, p.requires_grad, p.grad) for name, p in model.named_parameters()} == before
    assert [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()] == hooks
