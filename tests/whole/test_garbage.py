"""Python's search for cycles: rare while modules are imported, off while a graph is made, else as the user has it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.errors import CaptureError
from relprop.garbage import NEW_OBJECTS


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


class Cut(nn.Module):
    """Has three outputs, or, to fail, as many as the values of its input say."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : int(x.sum()) if self.fails else 3]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_capture_leaves_the_search_as_it_was(enabled: bool, fails: bool) -> None:
    model = Cut(fails).eval()
    (gc.enable if enabled else gc.disable)()
    if fails:
        with pytest.raises(CaptureError):
            relprop.capture(model, (torch.full((2, 3, 4, 4), 0.1),))
    else:
        relprop.capture(model, (torch.rand(2, 3, 4, 4),))
    assert gc.isenabled() is enabled


def test_the_command_line_searches_rarely_until_the_model_is_there() -> None:
    script = (
        "import gc\n"
        "from relprop.garbage import collect_as_usual, collect_rarely\n"
        "before = gc.get_threshold()\n"
        "collect_rarely()\n"
        "rarely = gc.get_threshold()\n"
        "collect_as_usual()\n"
        "print(before == gc.get_threshold(), rarely[0], rarely[1:] == before[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", str(NEW_OBJECTS), "True"]
