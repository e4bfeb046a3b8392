"""Mosaics of four pictures, and contrastiveness on them, by hand."""

from __future__ import annotations

import pytest
import torch

from relprop import gae
from relprop.errors import InputError, TargetError
from tests.helpers.gae_cases import F64, tensor


def test_mosaic_by_hand() -> None:
    x = torch.arange(64.0).reshape(4, 1, 4, 4)
    # Means of two by two: of the first 0, 1, 4, 5 -> 2.5; each next picture 16 more.
    tile = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    expected = torch.cat([torch.cat([tile, tile + 16], 1), torch.cat([tile + 32, tile + 48], 1)], 0)
    assert torch.equal(gae.make_mosaics(x)[0, 0], expected)


def test_mosaic_of_odd_size_has_the_smaller_half_first() -> None:
    values = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    mosaics = gae.make_mosaics(values[:, None, None, None].expand(8, 2, 5, 3))
    assert mosaics.shape == (2, 2, 5, 3)
    assert mosaics[0, 1].tolist() == [[1, 2, 2]] * 2 + [[3, 4, 4]] * 3
    assert mosaics[1, 0].tolist() == [[5, 6, 6]] * 2 + [[7, 8, 8]] * 3


def test_quadrant_scores_by_hand() -> None:
    # Classes 0, 1, 2, 0. On the first picture q = (0.5, 0.25, 0.125, ...): 2 * 0.5 - 1 = 0, 2 * 0.25 - 1 = -0.5.
    probability = tensor(
        [0.5, 0.25, 0.125, 0.125], [0.25, 0.5, 0.125, 0.125], [0.01, 0.01, 0.97, 0.01], [0.25, 0.5, 0.25, 0]
    )
    found = gae.quadrant_scores(probability.log(), torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(found.scores[0], tensor(1, 0, -0.5, 1))
    torch.testing.assert_close(found.scores[1], tensor(0, 1, -0.5, 0))
    torch.testing.assert_close(found.scores[2], tensor(2 / 97 - 1, 2 / 97 - 1, 1, 2 / 97 - 1))
    torch.testing.assert_close(found.scores[3], tensor(1, 1, 1, 1), msg="2 * 0.5 / 0.25 - 1 = 3 is clamped")
    assert not found.undefined.any()
    assert not found.one_class.any()


def test_quadrants_of_one_class_and_of_no_probability() -> None:
    output = tensor([[0, -2000, -1]] * 8)
    found = gae.quadrant_scores(output, torch.tensor([0, 0, 0, 0, 1, 0, 0, 0]))
    assert found.one_class.tolist() == [True] * 4 + [False] * 4
    assert found.undefined.tolist() == [False] * 4 + [True] + [False] * 3
    assert found.scores[4].tolist() == [-1] * 4


def test_score_map_by_hand() -> None:
    assert gae.score_map(tensor([[0.1, 0.2, 0.3, 0.4]]), (6, 5))[0].tolist() == [
        [0.1, 1, 1, 0.2, 0.2],
        [0.1, 1, 1, 0.2, 0.2],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [0.3, 1, 1, 0.4, 0.4],
        [0.3, 1, 1, 0.4, 0.4],
    ]


def test_contrastiveness_by_hand() -> None:
    relevance = torch.zeros(2, 4, 4, dtype=F64)
    relevance[0, 0, 0], relevance[0, 0, 3], relevance[0, 1, 0] = 4, 2, 2  # own quadrant, its neighbour, centre line
    found = gae.contrastiveness(relevance, tensor([0.5, -1, -1, 1], [1, 1, 1, 1]))
    assert found.value.tolist() == [(0.5 * 1 - 0.5 + 0.5) / 2, 0]
    assert found.undefined.tolist() == [False, True]


def test_mosaic_members() -> None:
    members = gae.mosaic_members(10, seed=3)
    assert members.shape == (3, 4)
    flat = members.flatten().tolist()
    assert sorted(flat[:10]) == list(range(10))
    assert flat[10:] == flat[:2], "the last four is filled up from the first"
    assert members.tolist() == gae.mosaic_members(10, seed=3).tolist()
    assert members.tolist() != gae.mosaic_members(10, seed=4).tolist()
    assert gae.mosaic_members(1, seed=0).tolist() == [[0] * 4]
    with pytest.raises(InputError, match="no mosaic of 0"):
        gae.mosaic_members(0, seed=0)


def test_bad_mosaics() -> None:
    with pytest.raises(InputError, match="multiple of four, not 6"):
        gae.make_mosaics(torch.rand(6, 3, 4, 4))
    with pytest.raises(InputError, match="at least 2, not 1 x 4"):
        gae.make_mosaics(torch.rand(4, 3, 1, 4))
    with pytest.raises(InputError, match="multiple of four, not 3"):
        gae.quadrant_scores(torch.rand(3, 5), torch.zeros(3, dtype=torch.long))
    with pytest.raises(TargetError, match="out of range"):
        gae.quadrant_scores(torch.rand(4, 5), torch.tensor([0, 1, 2, 5]))
