"""Running out of memory, said so that one knows what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from relprop.errors import RelpropError


class OutOfMemoryError(RelpropError, MemoryError):
    """So many samples at once do not fit into memory."""


@contextmanager
def memory_for(samples: int) -> Iterator[None]:
    """Turn every way of running out of memory into one error that says which batch size to try.

    Parameters
    ----------
    samples : int
        How many are explained at once.

    Raises
    ------
    OutOfMemoryError
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:  # others wrap it, as a failing capture does
        if not is_out_of_memory(error):
            raise
        advice = (
            f"try a batch size of {samples // 2}"
            if samples > 1
            else "it is a single one already, so take smaller pictures, a smaller model or another device"
        )
        raise OutOfMemoryError(f"out of memory with a batch of {samples}: {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the cause of it, is that memory ran out."""
    # PyTorch's CPU allocator has no error class of its own.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
