"""Runs that end when the intervals of means are narrow enough: the file of so many samples, whoever computes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import relprop
from relprop import engines
from relprop.errors import InputError
from relprop.evaluation import evaluate
from relprop.evaluation.stopping import Judge, StopRule
from relprop.gae.mosaics import sample_order
from tests.helpers.evaluations import assert_same, contents, inputs
from tests.helpers.models import kept, pictures

SAMPLES = 340
METHODS = ("random", "centre")
UNIT = 6
"""Mosaics: 24 samples, so that every hundred lies within a unit."""


def run(path: Path, methods: Any = METHODS, **options: Any) -> relprop.Evaluation:
    return evaluate(kept("plain"), inputs(SAMPLES), methods, path, **{"unit": UNIT, "progress": False} | options)


def half_widths(path: Path) -> list[float]:
    """As the summary prints them."""
    with relprop.Results(path) as results:
        found = results.summary()
    estimates = [method.scores["gae"].estimate for method in found.methods]
    return [(estimate.high - estimate.low) / 2 for estimate in estimates]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of 100, 200 and 300 samples, and of all."""
    folder = tmp_path_factory.mktemp("stopping")
    found = {}
    for limit in (100, 200, 300, SAMPLES):
        found[limit] = folder / f"{limit}.h5"
        run(found[limit], limit=limit)
    return found


@pytest.fixture(scope="module")
def rule(limited: dict[int, Path]) -> str:
    """One that 200 samples meet, and 100 do not."""
    wide, narrow = max(half_widths(limited[100])), max(half_widths(limited[200]))
    assert narrow < wide
    return f"gae ±{(wide + narrow) / 2:.6f}"


@pytest.mark.full
def test_a_run_stops_as_one_of_so_many_samples_and_goes_on_from_there(
    tmp_path: Path, limited: dict[int, Path], rule: str
) -> None:
    path = tmp_path / "run.h5"
    found = run(path, stop_when=rule.replace("±", "+-"))
    assert (found.samples, found.complete, found.stop) == (200, True, f"stopped, as {StopRule.parse(rule)} is reached")
    assert_same(contents(path), contents(limited[200]))
    with relprop.Results(path) as results:
        assert results.stopped == str(StopRule.parse(rule))
        words = f"200 samples, complete: stopped when it had reached {results.stopped}"
        assert words in str(results)
        assert words in str(results.summary())
        assert results.summary().as_dict()["stopped"] == results.stopped
    assert run(path, stop_when=rule, resume=True).evaluated == 0
    assert run(path, stop_when="gae ±1", resume=True).samples == 200  # what is there is not cut
    narrower = run(path, stop_when="gae ±1e-9", resume=True)
    assert (narrower.samples, narrower.complete) == (SAMPLES, True)
    assert narrower.stop == "gae ±1e-09 is not reached"
    assert_same(contents(path), contents(limited[SAMPLES]))
    with relprop.Results(path) as results:
        assert results.stopped == ""


@pytest.mark.full
def test_a_run_that_was_broken_off_stops_at_the_same_sample(
    tmp_path: Path, limited: dict[int, Path], rule: str
) -> None:
    path = tmp_path / "run.h5"

    def stop(done: float, total: int | None) -> None:
        if done > 250:
            raise KeyError

    with pytest.raises(KeyError):
        run(path, progress=stop)  # beyond the sample at which it will stop
    found = run(path, stop_when=rule, resume=True)
    assert (found.samples, found.complete) == (200, True)
    assert_same(contents(path), contents(limited[200]))


@pytest.mark.full
def test_processes_stop_at_the_same_sample(
    tmp_path: Path, limited: dict[int, Path], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    path = tmp_path / "run.h5"
    options = {"unit": UNIT, "progress": False, "stop_when": rule}
    found = engines.evaluate(kept("plain"), inputs(SAMPLES), METHODS, path, processes=2, **options)
    assert (found.samples, found.complete) == (200, True)
    assert_same(contents(path), contents(limited[200]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]
    with relprop.Results(path) as results:
        assert results.stopped == str(StopRule.parse(rule))


def test_intervals_are_judged_in_the_seeded_order_and_on_the_first_alone() -> None:
    order, seen = sample_order(350, 3), []
    spread = np.random.default_rng(0).uniform(size=350)

    def scores(samples: np.ndarray) -> Iterator[np.ndarray]:
        seen.append(samples)
        yield spread[samples]
        yield np.full(len(samples), 0.25)  # without spread, as controls have it

    judge = Judge(StopRule("gae", 0.047))
    assert not judge.is_due(99)
    assert not judge.look(order, 150, scores)
    assert judge.look(order, 350, scores)
    assert judge.met == 200  # 1.96 * sqrt(1 / 12 / n) is 0.057 and 0.040
    assert [samples.tolist() for samples in seen] == [sorted(order[:n].tolist()) for n in (100, 200)]
    assert not StopRule("gae", 1.0).is_met([])
    assert not StopRule("gae", 1.0).is_met([np.full(100, np.nan)])


class Stream:
    """Pictures without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(pictures(8))


def test_what_can_not_be_judged_is_refused_early(tmp_path: Path) -> None:
    for text in ("gae", "±0.01", "gae ±", "gae ±0", "gae ±-1", "gae ±nan", "gae ±wide", "gae 0.01", ""):
        with pytest.raises(InputError, match=r"can't be understood: say it as \"gae ±0.01\""):
            run(tmp_path / "run.h5", stop_when=text)
    with pytest.raises(InputError, match=r"computes no score 'deletion'.*gae"):
        run(tmp_path / "run.h5", stop_when="deletion ±0.1")
    with pytest.raises(InputError, match="a shard has some of them alone"):
        run(tmp_path / "run.h5", stop_when="gae ±0.1", shard=(1, 4))
    with pytest.raises(InputError, match="per_class takes others"):
        run(tmp_path / "run.h5", stop_when="gae ±0.1", per_class=2)
    with pytest.raises(InputError, match="a data set without a length has none"):
        evaluate(kept("plain"), Stream(), METHODS, tmp_path / "run.h5", stop_when="gae ±0.1")
    with pytest.raises(InputError, match=r"computes no score 'gea'.*near names: gae"):
        engines.evaluate(kept("plain"), inputs(8), METHODS, tmp_path / "run.h5", processes=2, stop_when="gea ±0.1")
    assert list(tmp_path.iterdir()) == []
