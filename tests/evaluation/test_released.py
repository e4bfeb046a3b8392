"""``protocol="released"`` over a data set: records of the authors' code, and its corners by hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import relprop
from relprop.errors import InputError
from relprop.evaluation import DataError, evaluate
from relprop.gae import mosaic_members
from relprop.store import ConfigurationError, validate
from tests.gae.test_released import input_times_gradient, recorded
from tests.helpers.evaluations import assert_same, contents, inputs, run
from tests.helpers.models import kept
from tests.rule_registry.test_golden import load


@recorded
@pytest.mark.full
@pytest.mark.parametrize("name", ["vgg", "resnet_basic"])
def test_a_run_agrees_with_the_records(tmp_path: Path, name: str) -> None:
    model, record = load(name)
    best = record["gae_contrastiveness_raw"].argsort(descending=True)[:2]  # the mosaics that score something
    places = torch.from_numpy(mosaic_members(8, 0)).flatten()
    chosen = torch.empty(8, dtype=torch.long)
    chosen[places] = record["gae_batch_order"][best].flatten()  # so that the run lays out the recorded mosaics
    evaluate(
        model,
        (record["gae_images"][chosen].double(), record["gae_labels"][chosen]),
        {"IxG": lambda x, target: input_times_gradient(model, x, target)},
        tmp_path / "run.h5",
        protocol="released",
    )
    drawn = places.reshape(2, 4).gather(1, record["gae_positive_in_batch"][best][:, None])[:, 0].numpy()
    with h5py.File(tmp_path / "run.h5") as file:
        validate(file)
        group, samples = file["methods/IxG"], file["samples"]
        for key in ("faithfulness", "local_consistency", "contrastiveness_raw", "contrastiveness", "gae"):
            expected = record[key if key == "gae" else f"gae_{key}"][best].numpy()
            np.testing.assert_allclose(group[key][:][drawn], expected, rtol=1e-6, atol=1e-6, err_msg=key)
        assert record["gae"][best].any(), "a record of zeros compares nothing"
        for order, key in enumerate(("gae_morf_logit", "gae_lerf_logit")):
            np.testing.assert_allclose(samples["logit"][:][drawn, order], record[key][best].numpy(), rtol=1e-6)
        assert np.array_equal(samples["impact"][:][drawn], record["gae_impact_map"][best].numpy())


def signed(x: Tensor, target: Tensor) -> Tensor:
    return x * (1 + target[:, None, None, None])


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "run.h5"
    found = run(path, {"signed": signed, "constant": "constant"}, count=9, protocol="released", relevance="channels")
    assert found.complete
    return path


def test_quadrants_are_rated_by_labels_and_maps_are_of_predictions(released: Path) -> None:
    _, labels = inputs(9)
    with h5py.File(released) as file:
        samples = file["samples"]
        assert np.array_equal(samples["target"], samples["prediction"])
        assert (samples["target"][:] != labels.numpy()).any()
        probability = np.exp(samples["output"][:].astype(np.float64))
        probability /= probability.sum(1, keepdims=True)
        for row in range(9):
            q = probability[row, labels.numpy()[samples["mosaic_members"][row]]]
            expected = 2 * q / probability[row, labels[row]] - 1
            np.testing.assert_allclose(samples["quadrant_scores"][row], expected, rtol=1e-4)
        assert samples["quadrant_scores"][:].max() > 1, "unbounded, as released"


def test_its_file_is_of_elements_and_says_so(released: Path) -> None:
    with h5py.File(released) as file:
        validate(file)
        assert '"protocol":"released"' in file.attrs["config"]
        assert file["samples/steps"].shape == (9, 2, 3, 8, 8)
        assert np.isinf(file["methods/signed/contrastiveness"].attrs["valid_range"]).all()
        # A map without channels is one with the same in each.
        assert np.isfinite(file["methods/constant/gae"]).all()
        impact = file["samples/impact"][:]
        np.testing.assert_allclose(
            file["methods/constant/faithfulness"], impact.reshape(9, -1).mean(1), rtol=1e-4, atol=1e-6
        )
    results = relprop.Results(released)
    assert results.config["protocol"] == "released"
    assert "GAE of constant" in str(results.summary())


@pytest.mark.full
def test_a_run_that_is_resumed_with_a_method_equals_one_with_both(tmp_path: Path, released: Path) -> None:
    path = tmp_path / "run.h5"
    options = {"count": 9, "protocol": "released", "relevance": "channels"}
    run(path, {"signed": signed}, **options)
    run(path, {"signed": signed, "constant": "constant"}, resume=True, **options)
    assert_same(contents(path), contents(released))
    with pytest.raises(ConfigurationError, match="protocol"):
        run(path, {"signed": signed}, count=9, resume=True)


def test_what_it_refuses(tmp_path: Path) -> None:
    x, labels = inputs(8)
    model, path = kept("plain"), tmp_path / "run.h5"
    with pytest.raises(DataError, match='protocol="released" need: give'):
        evaluate(model, x, "constant", path, protocol="released")
    with pytest.raises(InputError, match="masks with zero"):
        evaluate(model, (x, labels), "constant", path, protocol="released", baseline=0.5)
    with pytest.raises(InputError, match="even height and width"):
        evaluate(model, (x[..., :7], labels), "constant", path, protocol="released")
    with pytest.raises(InputError, match="not 'paper'"):
        evaluate(model, (x, labels), "constant", path, protocol="paper")  # type: ignore[arg-type]
    assert not path.exists()
