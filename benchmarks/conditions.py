"""The conditions under which a number was measured: device, precision, threads, machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from relprop.errors import RelpropError
from relprop.models.devices import find_device

Placed = TypeVar("Placed", Tensor, nn.Module)
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class ConditionsError(RelpropError, ValueError):
    """Conditions that can't be met together."""


class Device(StrEnum):
    """Where tensors live."""

    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """Precision of weights and pictures, by PyTorch's names."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class Conditions:
    """Device, precision and threads; its text names the files of results.

    Attributes
    ----------
    device, dtype, threads
        Where, how precise, how many.
    tf32
        Whether a GPU may round the factors of float32 products to ten bits. Otherwise it may not, convolutions
        included, for which PyTorch lets it by default.
    """

    device: Device
    dtype: Dtype
    threads: int
    tf32: bool = False

    def __str__(self) -> str:
        version = torch.__version__.partition("+")[0]
        precision = f"{self.dtype}-tf32" if self.tf32 else f"{self.dtype}"
        return f"{self.device}-{precision}-{self.threads}threads-torch{version}"

    @property
    def on_machine(self) -> str:
        """The same with the name of the processor or GPU in front, for what another one would do at another speed."""
        name = torch.cuda.get_device_name() if self.device is Device.CUDA else _processor()
        return f"{re.sub('[^A-Za-z0-9.]+', '-', name).strip('-')}-{self}"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Set PyTorch's number of threads and what it may round, and set both back afterwards.

        Raises
        ------
        DeviceError
            There is no such device.
        ConditionsError
            TF32 is requested on a processor.
        """
        find_device(self.device.value)
        if self.tf32 and self.device is not Device.CUDA:
            raise ConditionsError("--tf32 is about GPUs: it goes with --device cuda")
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        before = torch.get_num_threads(), products.allow_tf32, convolutions.allow_tf32
        torch.set_num_threads(self.threads)
        products.allow_tf32 = convolutions.allow_tf32 = self.tf32
        try:
            yield
        finally:
            threads, products.allow_tf32, convolutions.allow_tf32 = before
            torch.set_num_threads(threads)

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


def _processor() -> str:
    """Return the processor's name, as far as the system says it."""
    listed = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", listed.read_text(), re.MULTILINE) if listed.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
