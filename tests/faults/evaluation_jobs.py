"""What is done while writes fail: an evaluation of a small model."""

from __future__ import annotations

from pathlib import Path

import torch

from relprop.evaluation import evaluate
from tests.faults.jobs import NAME
from tests.helpers.models import kept, pictures

torch.set_num_threads(1)
COUNT = 8
X = pictures(COUNT)


def evaluation(folder: Path) -> None:
    """Evaluate a method that needs no capture, or go on with that."""
    evaluate(kept("plain"), X, ("random", "constant"), folder / NAME, resume=True, relevance="map")
