"""What the evaluator writes, against the metric itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import relprop
from relprop import gae
from relprop.evaluation import (
    DataError,
    MetricError,
    evaluate,
    quantus_metric,
)
from relprop.gae import mosaic_members
from tests.helpers.evaluations import SAMPLES, SCORES, gradient_of, inputs, run
from tests.helpers.models import kept


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("method", ["abslrp", "gradient"])
def test_scores_are_those_of_the_metric(whole: Path, method: str) -> None:
    members = mosaic_members(SAMPLES, 0)
    x, _ = inputs()
    explain: Any = relprop.Explainer(kept("plain"), rules=method)
    expected = gae.score(kept("plain"), x[members.flatten()], explain)
    with h5py.File(whole) as file:
        for name in SCORES:
            found = file[f"methods/{method}/{name}"][:][members.flatten()[:SAMPLES]]
            np.testing.assert_allclose(found, getattr(expected, name)[:SAMPLES].numpy(), atol=2e-6, err_msg=name)
        assert np.isfinite(file[f"methods/{method}/gae"][:]).sum() > SAMPLES // 2


def test_the_masking_run_is_that_of_the_metric(whole: Path) -> None:
    x, labels = inputs()
    expected = gae.masking_run(kept("plain"), x)
    with h5py.File(whole) as file:
        samples = file["samples"]
        np.testing.assert_array_equal(samples["prediction"], expected.target)
        np.testing.assert_array_equal(samples["label"], labels)
        np.testing.assert_allclose(samples["probability"][:], expected.probability, atol=1e-6)
        np.testing.assert_allclose(samples["output"][:], expected.output, atol=1e-5)
        # Pixels whose gradients differ by rounding may change places.
        assert (samples["steps"][:] == expected.steps.numpy()).mean() > 0.99
        members, quadrant = samples["mosaic_members"][:], samples["quadrant"][:]
        np.testing.assert_array_equal(members[np.arange(SAMPLES), quadrant], np.arange(SAMPLES))
        chosen = mosaic_members(SAMPLES, 0)
        assert {tuple(row) for row in members} == {tuple(row) for row in chosen}


def test_random_control_follows_from_seed_sample_and_state(whole: Path) -> None:
    """Faithfulness of the random map, computed here from the file's impact map and the documented draw."""
    with h5py.File(whole) as file:
        found, impact = file["methods/random/faithfulness"][:], file["samples/impact"][:]
    for sample in (0, 7, 16):
        drawn = gae.random_map([sample], impact.shape[1:], seed=0)[0].numpy()
        assert found[sample] == pytest.approx((impact[sample] * drawn).sum() / drawn.sum(), abs=1e-6)


def test_metrics_beside_gae(whole: Path) -> None:
    x, _ = inputs()
    curves = relprop.metrics.perturbation_curves(kept("plain"), x, gradient_of(x, kept("plain")(x).argmax(1)))
    with h5py.File(whole) as file:
        group = file["methods/gradient"]
        np.testing.assert_allclose(group["deletion"][:], curves.deletion, atol=1e-5)
        np.testing.assert_allclose(group["insertion"][:], curves.insertion, atol=1e-5)
        np.testing.assert_allclose(group["srg"][:], group["insertion"][:] - group["deletion"][:], atol=1e-6)


def test_maps_are_kept(whole: Path) -> None:
    x, _ = inputs()
    expected = gradient_of(x, kept("plain")(x).argmax(1))
    with h5py.File(whole) as file:
        maps = file["methods/gradient/maps"]
        found = maps["relevance"][:].astype(np.float32) * maps["scale"][:][:, None, None, None]
    np.testing.assert_allclose(found, expected, atol=2e-3 * float(expected.abs().max()))


def test_pointing_game_and_energy_inside_need_masks(tmp_path: Path) -> None:
    x, labels = inputs(8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    rows = [(picture, label, mask) for picture, label in zip(x, labels, strict=True)]
    names = ("pointing_game", "energy_inside")
    evaluate(kept("plain"), rows, "constant", tmp_path / "run.h5", metrics=names)
    with h5py.File(tmp_path / "run.h5") as file:
        for name in names:
            np.testing.assert_allclose(file[f"methods/constant/{name}"], 0.5)
    with pytest.raises(DataError, match="has no mask of an object"):
        evaluate(kept("plain"), (x, labels), "constant", tmp_path / "none.h5", metrics=names)


def test_ones_own_metric(tmp_path: Path) -> None:
    def largest(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        return relevance.flatten(1).amax(1)

    run(tmp_path / "run.h5", ["constant"], count=8, metrics={"largest": largest, "deletion": None})
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["methods/constant/largest"][:].tolist() == [1] * 8
    with pytest.raises(MetricError, match=r"no metric 'deletoin'; near names: deletion"):
        run(tmp_path / "bad.h5", ["constant"], count=8, metrics=("deletoin",))
    with pytest.raises(MetricError, match="must return a number for each of 8 samples"):
        run(tmp_path / "bad.h5", ["constant"], count=8, metrics={"mine": lambda *_: 1.0})


def test_metrics_of_quantus(tmp_path: Path) -> None:
    quantus = pytest.importorskip("quantus")
    metrics = {"sparseness": quantus_metric(quantus.Sparseness(disable_warnings=True))}
    run(tmp_path / "run.h5", {"few": one_pixel, "centre": "centre"}, count=8, metrics=metrics)
    with h5py.File(tmp_path / "run.h5") as file:
        few, centre = file["methods/few/sparseness"][:], file["methods/centre/sparseness"][:]
    np.testing.assert_allclose(few, 1 - 1 / 64, atol=1e-3)  # the Gini index where one of 64 has all
    assert (few > centre).all()


def one_pixel(x: Tensor, target: Tensor) -> Tensor:
    maps = torch.zeros(len(x), 1, *x.shape[2:])
    maps[..., 0, 0] = 1
    return maps
