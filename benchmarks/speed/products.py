"""The products of a job: counted while it runs, and run again alone.

A product is what multiplies and adds: matrix products, convolutions and their transposes, fused attention. Their
number of multiply-adds follows from their shapes, by PyTorch's own formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.speed.jobs import Job

aten = torch.ops.aten

COLD = 64 * 2**20
"""Bytes of copies of an operand that take turns, so that none is found in a cache because it was just used."""


def _with_vector(matrix: Tensor, *_: Any, **__: Any) -> int:
    """Count the operations of the product of a matrix ``(n, m)``, or a vector ``(m,)``, with a vector ``(m,)``."""
    return 2 * matrix.numel()


_FLOPS: Mapping[Any, Callable[..., int]] = {**flop_registry, aten.mv: _with_vector, aten.dot: _with_vector}


@dataclass(frozen=True)
class Operand:
    """A tensor that went into a product, without its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        """Describe a tensor of any shape."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    @property
    def extent(self) -> int:
        """How many elements there are from the first to the last, however many of them are seen, or seen twice."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    def make(self) -> Tensor:
        """Return such a tensor with random values, of its shape and strides."""
        return torch.rand(self.extent, device=self.device).to(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Product:
    """One product that was run.

    Attributes
    ----------
    operation
        Of PyTorch.
    args, kwargs
        Its arguments, tensors described.
    multiply_adds
        How many.
    """

    operation: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    multiply_adds: int


@dataclass
class _Recorder(TorchDispatchMode):
    """Keeps every product that is run under it."""

    products: list[Product] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = _FLOPS.get(func.overloadpacket)
        if formula is None and func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if formula is None:
            with self:  # operations made of others arrive whole in inference mode
                returned = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if returned is NotImplemented else returned
        returned = func(*args, **kwargs)
        operands, options = pytree.tree_map_only(Tensor, Operand.of, (args, kwargs))
        self.products.append(Product(func, operands, options, formula(*args, **kwargs, out_val=returned) // 2))
        return returned


def record(job: Job) -> list[Product]:
    """Run a job, and return its products in order.

    What was compiled is not seen. Let the job run once before: its first call may capture.
    """
    recorder = _Recorder()
    with recorder:
        job()
    return recorder.products


def multiply_adds(products: Sequence[Product]) -> int:
    """Return how many there are in all products."""
    return sum(product.multiply_adds for product in products)


def alone(products: Sequence[Product]) -> Job:
    """Return a job that runs products again and nothing else, on operands of the same shapes, strides and types."""
    shelf: dict[Operand, Iterator[Tensor]] = {}
    uses: dict[Operand, int] = {}
    for operand in _operands(products):
        uses[operand] = uses.get(operand, 0) + 1
    for operand, count in uses.items():
        size = max(operand.extent * operand.dtype.itemsize, 1)
        shelf[operand] = cycle([operand.make() for _ in range(min(count, ceil(COLD / size)))])

    def filled(given: Any) -> Any:
        return pytree.tree_map_only(Operand, lambda operand: next(shelf[operand]), given)

    calls = [(product.operation, filled(product.args), filled(product.kwargs)) for product in products]

    def run() -> None:
        with torch.no_grad():
            for operation, args, kwargs in calls:
                operation(*args, **kwargs)

    return run


def _operands(products: Sequence[Product]) -> Iterator[Operand]:
    for product in products:
        leaves = pytree.tree_leaves((product.args, product.kwargs))
        yield from (leaf for leaf in leaves if isinstance(leaf, Operand))
