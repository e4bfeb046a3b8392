"""Under which conditions a number was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import torch
from torch import Tensor, nn

Placed = TypeVar("Placed", Tensor, nn.Module)
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Device(StrEnum):
    """Where tensors live."""

    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """Precision of weights and pictures, by PyTorch's names."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Conditions:
    """Device, precision and threads; its text names the files of results."""

    device: Device
    dtype: Dtype
    threads: int

    def __str__(self) -> str:
        version = torch.__version__.partition("+")[0]
        return f"{self.device}-{self.dtype}-{self.threads}threads-torch{version}"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Set PyTorch's number of threads, and set it back afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def place(self, what: Placed) -> Placed:
        """Bring a tensor or a model to the device, in the precision."""
        return what.to(torch.device(self.device), getattr(torch, self.dtype))

    def synchronise(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device is Device.CUDA:
            torch.cuda.synchronize()


def under(conditions: Conditions, function: Callable[[Argument], Result], argument: Argument) -> Result:
    """Call a function with the conditions in force."""
    with conditions.in_force():
        return function(argument)
