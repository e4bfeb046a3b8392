"""``protocol="released"`` against records of the authors' own code, and its corners by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.gae import MapError, MaskingRun, Quadrants, Scores, collect_scores, score
from relprop.gae.protocols import masked_maps
from relprop.gae.released import (
    released_contrastiveness,
    released_faithfulness,
    released_mosaics,
    released_quadrants,
    released_robustness,
    released_run,
    released_score_map,
)
from tests.rule_registry.test_golden import GOLDEN, NAMES, load

recorded = pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/golden is not beside this checkout")
MOSAICS = 10


@dataclass(frozen=True)
class Case:
    """One record, and what this package finds for its ten mosaics."""

    record: dict[str, Tensor]
    run: MaskingRun
    score_maps: Tensor
    scores: Scores
    best: Scores
    """Of the mosaic that scored best alone, by `score`."""


def input_times_gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    leaf = x.requires_grad_()
    chosen = model(leaf).gather(1, target[:, None]).sum()
    return x * torch.autograd.grad(chosen, leaf)[0]


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    model, record = load(request.param)
    pictures, labels = record["gae_images"].double(), record["gae_labels"]
    members, positive = record["gae_batch_order"], record["gae_positive_in_batch"]
    drawn = members.gather(1, positive[:, None])[:, 0]

    def method(x: Tensor, target: Tensor) -> Tensor:
        return input_times_gradient(model, x, target)

    run = released_run(model, pictures[drawn], labels[drawn])
    with torch.no_grad():
        rated = [released_quadrants(model(pictures[four]), labels[four]) for four in members]
    quadrants = Quadrants(
        torch.stack([r.scores[k] for r, k in zip(rated, positive, strict=True)]),
        torch.stack([r.undefined[k] for r, k in zip(rated, positive, strict=True)]),
        torch.stack([r.one_class[k] for r, k in zip(rated, positive, strict=True)]),
    )
    relevance = method(pictures[drawn], run.target)
    mosaics = torch.cat([released_mosaics(pictures[four]) for four in members])
    scores = collect_scores(
        run,
        quadrants,
        released_faithfulness(relevance, run.impact),
        released_robustness(relevance, masked_maps(method, pictures[drawn], run), run.logit),
        released_contrastiveness(method(mosaics, run.target), quadrants.scores),
    )
    k = int(record["gae_contrastiveness_raw"].argmax())
    best = score(
        model,
        pictures[members[k]],
        method,
        target=labels[members[k]],
        protocol="released",
        positive=int(positive[k]),
    )
    size = pictures.shape[-2], pictures.shape[-1]
    return Case(record, run, released_score_map(quadrants.scores, size), scores, best)


def agrees(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert expected.any(), "a record of zeros compares nothing"


@pytest.mark.sweep(every=4)
@recorded
def test_output_curves(case: Case) -> None:
    agrees(case.run.logit[:, 0], case.record["gae_morf_logit"])
    agrees(case.run.logit[:, 1], case.record["gae_lerf_logit"])


@pytest.mark.sweep(every=2)
@recorded
def test_impact_map(case: Case) -> None:
    assert case.record["gae_impact_map"].any()
    assert torch.equal(case.run.impact, case.record["gae_impact_map"])


@recorded
def test_score_mosaic(case: Case) -> None:
    expected = case.record["gae_score_mosaic"]
    agrees(case.score_maps[:, None].expand(expected.shape), expected)


@recorded
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("faithfulness", "gae_faithfulness"),
        ("local_consistency", "gae_local_consistency"),
        ("contrastiveness_raw", "gae_contrastiveness_raw"),
    ],
)
def test_scores(case: Case, name: str, key: str) -> None:
    agrees(getattr(case.scores, name), case.record[key])


@recorded
def test_clipped_scores(case: Case) -> None:
    # Many of them are zero: the contrastiveness before clipping is compared above.
    for name, key in (("contrastiveness", "gae_contrastiveness"), ("gae", "gae")):
        torch.testing.assert_close(getattr(case.scores, name), case.record[key], rtol=1e-6, atol=1e-6)


@recorded
def test_score_of_one_mosaic(case: Case) -> None:
    k = case.record["gae_contrastiveness_raw"].argmax()[None]
    for name in ("faithfulness", "local_consistency", "contrastiveness_raw", "contrastiveness", "gae"):
        expected = case.record[name if name == "gae" else f"gae_{name}"][k]
        torch.testing.assert_close(getattr(case.best, name), expected, rtol=1e-6, atol=1e-6)


@recorded
def test_robustness_is_what_local_consistency_implies(case: Case) -> None:
    consistency, faithful = case.record["gae_local_consistency"], case.record["gae_faithfulness"]
    unclipped = consistency > 0
    assert unclipped.any()
    agrees(case.scores.robustness[unclipped], (2 * consistency - faithful)[unclipped])


@recorded
def test_morf_is_through_at_the_fourth_step_and_lerf_never(case: Case) -> None:
    masked = torch.stack([(case.run.steps <= t).flatten(2).double().mean(2) for t in range(1, 10)], 2)
    morf = torch.tensor([0.1, 0.3, 0.6, 1.0]).double().expand(MOSAICS, -1)
    torch.testing.assert_close(masked[:, 0, :4], morf, atol=1e-3, rtol=0)
    lerf = torch.arange(1, 10).double().expand(MOSAICS, -1) / 10
    torch.testing.assert_close(masked[:, 1], lerf, atol=1e-3, rtol=0)


def linear(weights: Tensor) -> nn.Module:
    """Logits that are dot products of the picture with weights, ``(classes, elements)``."""
    layer = nn.Linear(weights.shape[1], len(weights), bias=False, dtype=weights.dtype)
    layer.load_state_dict({"weight": weights})
    return nn.Sequential(nn.Flatten(), layer).eval()


def test_mosaic_takes_every_other_pixel() -> None:
    x = torch.arange(64.0).reshape(4, 1, 4, 4)
    assert released_mosaics(x)[0, 0].tolist() == [
        [0, 2, 16, 18],
        [8, 10, 24, 26],
        [32, 34, 48, 50],
        [40, 42, 56, 58],
    ]


def test_scores_of_quadrants_have_no_bound() -> None:
    # The positive's own probability is 0.25, that of another label 0.5: 2 * 0.5 / 0.25 - 1 = 3.
    output = torch.tensor([[0.25, 0.5, 0.25]] * 4).double().log()
    quadrants = released_quadrants(output, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(quadrants.scores[0], torch.tensor([1, 3, 1, 1]).double())
    torch.testing.assert_close(quadrants.scores[1], torch.tensor([0, 1, 0, 0]).double())


def test_score_map_has_a_square_of_ones_at_its_centre() -> None:
    spread = released_score_map(torch.tensor([[5.0, 6, 7, 8]]), (4, 4))
    assert spread[0].tolist() == [[5, 5, 6, 6], [5, 1, 1, 6], [7, 1, 1, 8], [7, 7, 8, 8]]


def test_run_by_hand() -> None:
    # 21 elements of strength 1 to 21: 2 of them at the first step, int(4.2) at the second, int(6.3) at the third ...
    x = torch.ones(1, 1, 3, 7, dtype=torch.float64)
    run = released_run(linear(torch.arange(1, 22).double()[None]), x, torch.tensor([0]))
    morf, lerf = run.steps[0].flatten(1).tolist()
    # 2 + 4 + 6 leave the nine smallest; the fourth step takes int(8.4) of them, the fifth the last.
    assert morf == [5] + [4] * 8 + [3] * 6 + [2] * 4 + [1] * 2
    # LeRF masks 2, 4, 6, 8, 10, 12, 14, 16 and 18 in all: the zeros come first again.
    assert lerf == [t for t in range(1, 10) for _ in range(2)] + [10] * 3
    assert run.logit[0, 0, :5].tolist() == [231, 231 - 41, 231 - 41 - 70, 45, 1]
    assert run.logit[0, 1].tolist() == [231 - k * (2 * k + 1) for k in range(10)]


def test_one_element_less_where_a_tenth_is_whole() -> None:
    x = torch.ones(1, 1, 4, 5, dtype=torch.float64)
    run = released_run(linear(torch.arange(1, 21).double()[None]), x, torch.tensor([0]))
    assert [int((run.steps[0, 1] <= t).sum()) for t in range(1, 10)] == [1, 3, 5, 7, 9, 11, 13, 15, 17]


def test_faithfulness_by_hand() -> None:
    # relu of (4, -8, 2, 1) over 8, over its maximum: (1, 0, 0.5, 0.25); weighted 1 - 0.5 = 0.5 of 1.75.
    found = released_faithfulness(
        torch.tensor([4.0, -8, 2, 1]).double().reshape(1, 1, 2, 2), torch.tensor([1, 1, -1, 0]).reshape(1, 1, 2, 2)
    )
    torch.testing.assert_close(found.value, torch.tensor([0.5 / 1.75]).double())


def test_robustness_by_hand() -> None:
    own = torch.tensor([1.0, 1, 0, 0]).double().reshape(1, 1, 2, 2)
    masked = own.expand(1, 2, 9, 1, 2, 2).contiguous()
    masked[:, 0, 0] = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 2, 2)  # D = 1 / 3, at the first step of MoRF
    logit = torch.full((1, 2, 10), 2.0).double()
    logit[0, 1, 1] = 4  # omega = (4 - 2) / 2 = 1
    # D(delta, omega) = (1 - 1/3) / (1 + 1/3) = 1/2.
    torch.testing.assert_close(
        released_robustness(own, masked, logit).value, torch.zeros(1).double(), atol=1e-8, rtol=0
    )


def test_contrastiveness_by_hand() -> None:
    relevance = torch.zeros(1, 1, 4, 4).double()
    relevance[0, 0, 0, 0], relevance[0, 0, 1, 1], relevance[0, 0, 3, 3] = 1, 0.5, 0.5
    # (5 * 1 + 1 * 0.5 + 8 * 0.5) / 2
    found = released_contrastiveness(relevance, torch.tensor([[5.0, 6, 7, 8]]).double())
    torch.testing.assert_close(found.value, torch.tensor([4.75]).double())


def test_a_map_of_zeros_is_flagged() -> None:
    found = released_faithfulness(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert found.value.tolist() == [0]
    assert found.undefined.tolist() == [True]


def test_what_it_refuses() -> None:
    model = linear(torch.eye(3, 16))
    x = torch.rand(4, 1, 4, 4)

    def ones(x: Tensor, target: Tensor) -> Tensor:
        return torch.ones_like(x)

    with pytest.raises(ValueError, match="give positive, 0 to 3"):
        score(model, x, ones, protocol="released")
    with pytest.raises(ValueError, match="not 4"):
        score(model, x, ones, protocol="released", positive=4)
    with pytest.raises(InputError, match="no baseline"):
        score(model, x, ones, protocol="released", positive=0, baseline=0.5)
    with pytest.raises(InputError, match="four pictures of even"):
        score(model, torch.rand(8, 1, 4, 4), ones, protocol="released", positive=0)
    with pytest.raises(InputError, match="four pictures of even"):
        released_mosaics(torch.rand(4, 1, 5, 4))
    with pytest.raises(MapError, match="scores elements"):
        released_faithfulness(torch.ones(1, 1, 4, 4), torch.ones(1, 3, 4, 4))
