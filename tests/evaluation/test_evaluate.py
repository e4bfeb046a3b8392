"""A run of the evaluator: targets, methods and models that fail, models that are none, files and progress."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import gae
from relprop.errors import InputError
from relprop.evaluation import (
    DataError,
    Item,
    MethodFailureError,
    evaluate,
)
from relprop.files import OutputError
from relprop.gae import Flag, mosaic_members
from relprop.store import State, is_complete
from tests.helpers.evaluations import SAMPLES, SCORES, assert_same, contents, inputs, run
from tests.helpers.models import doubled, kept, pictures, seeded


def test_targets_are_labels_where_asked(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8, target="label")
    with h5py.File(tmp_path / "run.h5") as file:
        np.testing.assert_array_equal(file["samples/target"], inputs(8)[1])
        assert (file["samples/target"][:] != file["samples/prediction"][:]).any()


def test_a_run_that_fails_leaves_what_others_did(tmp_path: Path) -> None:
    """An empty file that is resumed was not begun by the run that fails."""
    path = tmp_path / "run.h5"
    x, labels = inputs(8)
    labels[mosaic_members(8, 0)[1]] = 7
    with pytest.raises(DataError, match="has label 7"):
        evaluate(kept("plain"), (x, labels), "constant", path, unit=1)
    with h5py.File(path) as file:
        assert file["samples/state"][:].sum() == 4
    with h5py.File(path, "r+") as file:
        file["samples/state"][:] = 0
    with pytest.raises(DataError, match="has label 7"):
        evaluate(kept("plain"), (x, labels), "constant", path, unit=1, resume=True)
    assert path.exists()


# Methods that fail


def poisoned(what: str) -> Any:
    """A method that fails on one sample in some of its states, in one way or another."""
    x, _ = inputs()
    bad = x[5]

    def method(pictures: Tensor, target: Tensor) -> Tensor:
        hit = (pictures == bad).flatten(1).all(1)
        maps = pictures.sum(1, keepdim=True)
        if hit.any():
            if what == "raises":
                raise ZeroDivisionError("by sample five")
            if what == "shape":
                return maps[:, :, :-1]
            maps = torch.where(hit.reshape(-1, 1, 1, 1), torch.nan, maps)
        return maps

    return method


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raises", "ZeroDivisionError: by sample five"),
        ("shape", "the relevance map has shape"),
        ("nan", "the map of the picture holds NaN or infinite values"),
    ],
)
def test_a_failing_method_marks_the_sample_and_goes_on(tmp_path: Path, what: str, message: str) -> None:
    found = run(tmp_path / "run.h5", {"bad": poisoned(what), "constant": "constant"}, metrics=("deletion",))
    run(tmp_path / "good.h5", {"bad": lambda x, target: x.sum(1, keepdim=True)}, metrics=("deletion",))
    tally = found.methods["bad"]
    assert (tally.done, tally.failed, tally.absent) == (SAMPLES - 1, 1, 0)
    assert message in tally.failure
    assert (found.methods["constant"].failed, found.failed, found.complete) == (0, 1, True)
    with h5py.File(tmp_path / "run.h5") as file, h5py.File(tmp_path / "good.h5") as good:
        group = file["methods/bad"]
        assert group["state"][5] == State.FAILED
        assert message in group["message"].asstr()[5]
        assert file["samples/state"][5] == State.DONE
        for name in (*SCORES, "deletion"):
            assert np.isnan(group[name][5])
            np.testing.assert_allclose(
                np.delete(group[name], 5), np.delete(good[f"methods/bad/{name}"], 5), atol=1e-5, err_msg=name
            )


def test_fail_fast_stops_and_keeps_what_was_done(tmp_path: Path) -> None:
    with pytest.raises(MethodFailureError, match=r"method bad failed on sample 5 .*by sample five"):
        run(tmp_path / "run.h5", {"constant": "constant", "bad": poisoned("raises")}, fail_fast=True)
    with h5py.File(tmp_path / "run.h5") as file:
        assert not is_complete(file)
        assert file["samples/state"][5] == State.DONE
        assert file["methods/bad/state"][5] == State.ABSENT


def test_a_method_that_returns_no_tensor(tmp_path: Path) -> None:
    found = run(tmp_path / "run.h5", {"none": lambda x, target: None}, count=8)
    assert found.methods["none"].failed == 8
    assert "must return a tensor, not a NoneType" in found.methods["none"].failure


# Models


def test_a_model_that_classifies_everything_alike_is_told(tmp_path: Path) -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    model[1].bias.data[3] += 1000
    found = evaluate(model, pictures(8), "gradient,constant", tmp_path / "run.h5")
    assert found.one_class == 8
    assert "8 of 8 samples are in a mosaic of one class" in str(found)
    assert "the model puts all pictures into one class" in str(found)
    with h5py.File(tmp_path / "run.h5") as file:
        assert np.isnan(file["methods/gradient/contrastiveness"]).all()
        assert np.isnan(file["methods/gradient/gae"]).all()
        assert (file["methods/gradient/flags"][:] & Flag.ONE_CLASS).all()


def test_a_model_that_fails_on_one_picture_marks_it(tmp_path: Path) -> None:
    x, _ = inputs(9)

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kept("plain")

        def forward(self, pictures: Tensor) -> Tensor:
            bad = (pictures == x[4].to(pictures)).flatten(1).all(1)
            return torch.where(bad[:, None], torch.nan, self.inner(pictures))

    found = evaluate(Moody().eval(), x, "constant", tmp_path / "run.h5")
    assert found.unreadable == 1
    assert "the model fails on it: the model's output is NaN" in found.failure
    assert found.complete
    evaluate(Moody().eval(), x, "random", tmp_path / "run.h5", resume=True)
    evaluate(Moody().eval(), x, "constant,random", tmp_path / "whole.h5")
    assert_same(contents(tmp_path / "run.h5"), contents(tmp_path / "whole.h5"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval(), "single output"),
        (lambda: nn.Flatten(2).eval(), "must return logits"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).train(), "training mode"),
        (lambda: 3, "must be a callable"),
    ],
)
def test_models_that_are_none(tmp_path: Path, model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model(), pictures(8), "constant", tmp_path / "run.h5")


@pytest.mark.full
def test_a_model_in_float64_is_scored_in_float64(tmp_path: Path) -> None:
    model = doubled(kept("plain"))
    x = pictures(8).double()
    evaluate(model, x, "gradient", tmp_path / "run.h5", unit=1)
    members = mosaic_members(8, 0).flatten()
    expected = gae.score(model, x[members], relprop.Explainer(model, rules="gradient"))
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["methods/gradient/gae"].dtype == np.float64
        np.testing.assert_allclose(file["methods/gradient/gae"][:][members], expected.gae, atol=1e-12)


# Files


def test_a_read_only_folder_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        with pytest.raises(OutputError):
            run(Path("/proc/run.h5"), ["constant"], count=8)
        return
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError):
        run(tmp_path / "run.h5", ["constant"], count=8)


def test_progress_counts_samples(tmp_path: Path) -> None:
    seen: list[tuple[float, int | None]] = []
    run(tmp_path / "run.h5", ["constant"], count=9, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_items_may_bring_names(tmp_path: Path) -> None:
    rows = [Item(x, 1, name=f"number {k}") for k, x in enumerate(pictures(4))]
    evaluate(kept("plain"), rows, "constant", tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["samples/name"].asstr()[:].tolist() == [f"number {k}" for k in range(4)]
