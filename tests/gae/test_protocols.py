"""Whole protocols on pictures with a known object, and controls that must do worse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from relprop import gae
from relprop.errors import InputError
from relprop.gae import MapError
from relprop.gae.masking import measure_sensitivity
from tests.helpers.gae_cases import Brightness, find_object, pictures, small_cnn, with_objects


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_the_impact_map_itself_is_most_faithful(seed: int) -> None:
    run = gae.masking_run(small_cnn(seed), pictures(2, seed=seed))
    assert (run.impact == 1).flatten(1).any(1).all()
    assert gae.faithfulness(run.impact.double(), run.impact).value.tolist() == [1, 1]
    assert gae.faithfulness(-run.impact.double(), run.impact).value.tolist() == [-1, -1]


CONTROLS = {
    "random": lambda x, target: gae.random_map(range(len(x)), x.shape[2:], seed=0),
    "constant": lambda x, target: gae.constant_map(len(x), x.shape[2:]),
    "centre": lambda x, target: gae.centre_map(len(x), x.shape[2:]),
}


def test_the_object_is_found_where_it_is() -> None:
    x, objects = with_objects(8)
    target = Brightness()(x).argmax(1)
    assert target.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert torch.equal(find_object(x, target), objects.float())


@pytest.mark.parametrize("control", CONTROLS)
def test_the_oracle_beats_controls(control: str) -> None:
    x, _ = with_objects(8)
    model = Brightness().eval()
    oracle, chance = gae.score(model, x, find_object), gae.score(model, x, CONTROLS[control])
    for name in ("faithfulness", "robustness", "local_consistency", "contrastiveness_raw", "gae"):
        assert (getattr(oracle, name) > getattr(chance, name) + 0.2).all(), name
    assert (oracle.faithfulness > 0.9).all()
    assert (oracle.contrastiveness > 0.95).all()
    assert (oracle.gae > 0.5).all()
    assert (chance.gae < 0.05).all()


def test_every_picture_is_scored_on_its_own_quadrant() -> None:
    x, _ = with_objects(8)
    run = gae.masking_run(Brightness().eval(), x)
    scores = gae.quadrant_scores(run.output, run.target).scores
    for place in range(4):
        maps = gae.mosaic_oracle_map([place] * 8, x.shape[2:])
        found = gae.contrastiveness(maps, scores).value
        assert (found[place::4] > 0.9).all()
        others = [k for k in range(8) if k % 4 != place]
        assert (found[others] < 0.2).all(), "but for the centre lines"


def test_a_batch_is_its_mosaics_one_by_one() -> None:
    model, x = small_cnn(), pictures(8)
    x[0] += 3  # so that classes differ
    method = lambda x, target: measure_sensitivity(model, x, target).strength  # noqa: E731
    together = gae.score(model, x, method)
    assert together.contrastiveness.isfinite().any()
    for at in (slice(0, 4), slice(4, 8)):
        alone = gae.score(model, x[at], method)
        for name in vars(alone):
            torch.testing.assert_close(getattr(together, name)[at], getattr(alone, name), equal_nan=True)
    run = gae.masking_run(model, x)
    for k in range(8):
        alone = gae.masking_run(model, x[k : k + 1])
        for name in vars(alone):
            torch.testing.assert_close(getattr(run, name)[k : k + 1], getattr(alone, name))


def test_methods_may_return_what_has_relevance_and_differentiate_under_no_grad() -> None:
    model, x = Brightness().eval(), with_objects(4)[0]

    class Explained:
        def __init__(self, relevance: Tensor) -> None:
            self.relevance = relevance

    def gradient(x: Tensor, target: Tensor) -> Explained:
        leaf = x.requires_grad_()
        return Explained(x * torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)[0])

    with torch.no_grad():
        found = gae.score(model, x, gradient)
    assert not x.requires_grad
    assert (found.faithfulness > 0.8).all()


def test_random_map_follows_from_seed_and_index_alone() -> None:
    maps = gae.random_map([5, 0, 7], (4, 6), seed=1)
    assert maps.shape == (3, 4, 6)
    assert maps.dtype == torch.float32
    assert ((maps >= 0) & (maps < 1)).all()
    assert torch.equal(maps[2:], gae.random_map(torch.tensor([7]), (4, 6), seed=1))
    assert torch.equal(maps.flip(0), gae.random_map([7, 0, 5], (4, 6), seed=1))
    others = [
        gae.random_map([0], (4, 6), seed=1, draw=1),
        gae.random_map([0], (4, 6), seed=2),
        gae.random_map([1], (4, 6), seed=0),
        maps[:1],
    ]
    assert not any(torch.equal(maps[1:2], other) for other in others)
    drawn = gae.random_map([0], (200, 200), seed=0)
    assert abs(float(drawn.mean()) - 0.5) < 0.01
    assert abs(float(drawn.var()) - 1 / 12) < 0.005


def test_constant_and_centre_maps_by_hand() -> None:
    assert torch.equal(gae.constant_map(2, (2, 3)), torch.ones(2, 2, 3))
    centre = gae.centre_map(2, (3, 8))
    assert centre.shape == (2, 3, 8)
    torch.testing.assert_close(centre, centre.flip(1).flip(2))
    # Four columns to the side of eight, from the centre line at 3.5; standard deviations of 2 and 0.75.
    row = torch.tensor([math.exp(-((k - 3.5) ** 2) / 8) for k in range(8)])
    torch.testing.assert_close(centre[0, 1], row)
    torch.testing.assert_close(centre[1, 0], row * math.exp(-1 / (2 * 0.75**2)))


def test_mosaic_oracle_by_hand() -> None:
    found = gae.mosaic_oracle_map([0, 3], (3, 2))
    assert found.tolist() == [[[1, 0], [0, 0], [0, 0]], [[0, 0], [0, 1], [0, 1]]]


def test_bad_controls() -> None:
    with pytest.raises(InputError, match="empty"):
        gae.random_map([], (2, 2), seed=0)
    with pytest.raises(InputError, match="negative"):
        gae.random_map([-1], (2, 2), seed=0)
    with pytest.raises(InputError, match="empty"):
        gae.constant_map(0, (2, 2))
    with pytest.raises(InputError, match="empty"):
        gae.centre_map(0, (2, 2))
    with pytest.raises(MapError, match="truth values"):
        gae.oracle_map(torch.ones(1, 2, 2))
    with pytest.raises(InputError, match="quadrants are 0 to 3"):
        gae.mosaic_oracle_map([4], (2, 2))


def test_bad_calls_of_score() -> None:
    model, x = Brightness().eval(), with_objects(4)[0]
    with pytest.raises(InputError, match="multiple of four"):
        gae.score(model, x[:3], find_object)
    with pytest.raises(ValueError, match='"gae" or "released"'):
        gae.score(model, x, find_object, protocol="GAE")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="all four"):
        gae.score(model, x, find_object, positive=1)
    with pytest.raises(MapError, match="must return a tensor, not a str"):
        gae.score(model, x, lambda x, target: "map")
    with pytest.raises(MapError, match="shape"):
        gae.score(model, x, lambda x, target: x[:, :, 1:])
