"""What is done while writes fail: explanations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from relprop.explanation.archive import Item, save

NAME = "out.h5"


def save_h5(folder: Path) -> None:
    """Save an explanation's arrays."""
    random = np.random.default_rng(0)
    shapes = {"relevance": (2, 3, 32, 32), "output": (2, 1000), "target": (2,)}
    items = {name: Item(random.random(shape).astype("f4"), f"values of {name}") for name, shape in shapes.items()}
    save(folder / NAME, lambda: items, {"rules": "abslrp"}, Figure)
