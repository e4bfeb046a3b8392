"""Several evaluations in threads of one process: each draws what it would draw alone."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relprop.evaluation import evaluate
from tests.helpers.evaluations import assert_same, contents, inputs
from tests.helpers.models import kept

COUNT = 8


def noisy(x: Tensor, target: Tensor) -> Tensor:
    drawn = torch.randn_like(x) + float(np.random.normal()) + random.random()
    threading.Event().wait(0.002)  # the other thread comes between two draws
    return drawn * torch.rand(1)


def run(path: Path, results: list[Any]) -> None:
    results.append(evaluate(kept("plain"), inputs(COUNT), {"noisy": noisy}, path, batch_size=16))


def test_threads_draw_what_each_would_alone(tmp_path: Path) -> None:
    results: list[Any] = []
    run(tmp_path / "alone.h5", results)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    threads = [threading.Thread(target=run, args=(tmp_path / f"{k}.h5", results)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    for k in range(2):
        assert_same(contents(tmp_path / f"{k}.h5"), contents(tmp_path / "alone.h5"))
