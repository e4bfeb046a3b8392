"""Running out of memory: one error that says which batch size to try, and a process that goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import relprop
from relprop.run.memory import memory_for
from tests.helpers.paths import ROOT

LIMITED = """
import resource, torch, relprop
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64 * 64 * 64, 5)
).eval()
x = torch.randn(1024, 3, 64, 64)
relprop.explain(model, x[:2])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
try:
    relprop.explain(model, x, batch_size=1024)
except relprop.OutOfMemoryError as error:
    print(error)
print(relprop.explain(model, x[:16], batch_size=8).relevance.shape)
print(relprop.explain(model, x[:256], batch_size="auto").relevance.shape)
"""


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the address space as Linux has it")
def test_too_large_a_batch_says_what_to_try_and_smaller_ones_go_on() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    first, second, third = run.stdout.splitlines()
    assert first == "out of memory with a batch of 1024: try a batch size of 512"
    assert second == "torch.Size([16, 3, 64, 64])"
    assert third == "torch.Size([256, 3, 64, 64])"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_every_kind_of_it_is_recognised(error: Exception) -> None:
    with (
        pytest.raises(relprop.OutOfMemoryError, match="with a batch of 8: try a batch size of 4") as caught,
        memory_for(8),
    ):
        raise error
    assert isinstance(caught.value, MemoryError)
    with pytest.raises(relprop.OutOfMemoryError, match="single one already"), memory_for(1):
        raise error


def test_the_innermost_batch_is_named_and_other_errors_pass() -> None:
    with pytest.raises(relprop.OutOfMemoryError, match="a batch of 4"), memory_for(100), memory_for(4):
        raise MemoryError
    with pytest.raises(RuntimeError, match="something else"), memory_for(4):
        raise RuntimeError("something else")
