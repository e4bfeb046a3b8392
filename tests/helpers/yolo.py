"""A detector of ultralytics in a process of its own, since the library changes settings of its whole process.

Prints the largest difference to autograd's gradient, the conservation error, and whether the head is as it was.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor

import relprop

ANCHOR = 20
ROWS = {"score": 4 + 2, "box": 0}


def main(name: str, row: str, batch: int) -> dict[str, Any]:
    """Explain a class score or a box coordinate of an anchor, after a call with so many samples."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(name, verbose=False).eval().double()
    head, x = model.model[-1], torch.rand(2, 3, 64, 64, dtype=torch.float64)
    if batch:
        model(torch.rand(batch, 3, 64, 64, dtype=torch.float64))
    before = dict(vars(head))

    def target(output: tuple[Tensor, Any]) -> Tensor:
        return output[0][:, ROWS[row], ANCHOR]

    found = relprop.explain(model, x, target=target, rules="gradient").relevance
    e = relprop.explain(model, x, target=target)
    unchanged = vars(head).keys() == before.keys() and all(vars(head)[key] is before[key] for key in before)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(target(model(leaf)).sum(), leaf)
    return {
        "gradient": float((found - expected).abs().max() / expected.abs().max()),
        "conservation": e.conservation.error,
        "unchanged": unchanged,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
