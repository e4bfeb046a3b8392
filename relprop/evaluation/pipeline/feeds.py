"""Where the units of a run come from, of data sets with and without a length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relprop.evaluation.data.datasets import Source, Stream
from relprop.evaluation.data.readers import Read, Reserve, first_four, read_reserve, read_stream, read_units
from relprop.evaluation.data.samples import DataError, Reader
from relprop.evaluation.data.units import Unit, plan_units
from relprop.evaluation.settings import Settings


@dataclass(frozen=True, eq=False)
class Feed:
    """Where the samples of a run come from.

    Parameters
    ----------
    reserve : Reserve
        What fills up.
    first : Tensor
        The first four pictures that can be read, ``(4, C, H, W)``.
    index : list of int
        Of the samples of this run, ascending; none yet of a stream.
    count : int or None
        How many; None of a stream.
    planned : int or None
        How many the whole run has, all shards together; None of a stream.
    order : ndarray
        Indices of the samples of the whole run, in their order, ``(planned,)``; empty of a stream.
    units : callable
        From which units need work to these with their samples, and how many samples need none.
    """

    reserve: Reserve
    first: Tensor
    index: list[int]
    count: int | None
    planned: int | None
    order: NDArray[np.int64]
    units: Callable[[Callable[[Unit], bool]], tuple[Iterator[Read], int]]


def open_feed(source: Source | Stream, reader: Reader, settings: Settings, workers: int) -> Feed:
    """Read the samples that fill up, which shows the shape of all, and plan the units."""
    if isinstance(source, Stream):
        if settings.shard != (0, 1):
            raise DataError("a data set without a length can't be cut into shards")
        reserve, stream = read_stream(source, reader, settings.unit)
        return Feed(reserve, first_four(reserve), [], None, None, np.zeros(0, np.int64), lambda needed: (stream, 0))
    reserve = read_reserve(source, reader, settings.seed)
    order = source.order(settings.seed)
    plan = plan_units(order, settings.unit, settings.shard)
    index = sorted(index for unit in plan for index in unit.samples)
    first = first_four(reserve)
    one_size = replace(reader, shape=tuple(first.shape[1:]))

    def units(needed: Callable[[Unit], bool]) -> tuple[Iterator[Read], int]:
        left = [unit for unit in plan if needed(unit)]
        before = len(index) - sum(len(unit.samples) for unit in left)
        return read_units(source, one_size, left, workers), before

    return Feed(reserve, first, index, len(index), len(order), order, units)
