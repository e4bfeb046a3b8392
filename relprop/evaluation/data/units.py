"""Which samples share a mosaic, and which mosaics a unit of work: this follows from the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.evaluation.data.samples import DataError
from relprop.gae.mosaics import cut_in_fours


@dataclass(frozen=True)
class Unit:
    """A fixed number of mosaics, worked on together.

    Parameters
    ----------
    number : int
        Which unit of the run.
    members : tuple of int
        Sample indices of the mosaics' slots, ``4 * mosaics``; fewer mosaics in the last unit.
    own : tuple of bool
        Whether the sample is scored here. One that fills up an incomplete last four has its mosaic elsewhere.
    """

    number: int
    members: tuple[int, ...]
    own: tuple[bool, ...]

    @property
    def samples(self) -> tuple[int, ...]:
        """Indices of the samples that are scored here."""
        return tuple(member for member, own in zip(self.members, self.own, strict=True) if own)


def check_shard(shard: Sequence[int]) -> tuple[int, int]:
    """Return ``(i, n)``, part i of n, counted from 0."""
    try:
        part, parts = shard
    except (TypeError, ValueError) as error:
        raise DataError(f"shard is (i, n), part i of n counted from 0, not {shard!r}") from error
    if not (type(part) is int and type(parts) is int and 0 <= part < parts):
        raise DataError(f"shard is (i, n), part i of n counted from 0, not {tuple(shard)}")
    return part, parts


def plan_units(order: NDArray[np.int64], size: int, shard: tuple[int, int] = (0, 1)) -> list[Unit]:
    """Cut samples into units of work.

    Parameters
    ----------
    order : ndarray
        Indices of the samples in their order, ``(N,)``, four at least. With more samples behind all units but the last
        stay what they are.
    size : int
        Mosaics per unit.
    shard : tuple of int
        ``(i, n)``: every n-th unit from unit i on.

    Raises
    ------
    DataError
        The data set has no four samples, or there are fewer units than shards.
    """
    count = len(order)
    require_four(count)
    mosaics = cut_in_fours(order)
    starts = range(0, len(mosaics), size)
    if shard[1] > len(starts):
        units = "1 unit" if len(starts) == 1 else f"{len(starts)} units"
        enough = (len(mosaics) - 1) // (shard[1] - 1)  # the largest unit of which there are so many
        advice = "give all of them <unit>" if enough else f"they are {len(mosaics)} mosaics, which are not cut"
        raise DataError(
            f"{count} samples are {units} of work: too few for {shard[1]} shards; {advice}", unit=str(enough)
        )
    return [
        unit_of(mosaics[start : start + size], number, 4 * start, count)
        for number, start in enumerate(starts)
        if number % shard[1] == shard[0]
    ]


def unit_of(mosaics: NDArray[np.int64], number: int, before: int, count: int) -> Unit:
    """Make a unit of mosaics ``(M, 4)``; ``before`` of ``count`` samples belong to earlier units."""
    members = tuple(int(member) for member in mosaics.flatten())
    return Unit(number, members, tuple(before + position < count for position in range(len(members))))


def stream_units(items: Iterator[tuple[int, Any]], size: int, first: Sequence[int]) -> Iterator[tuple[Unit, list[Any]]]:
    """Cut a stream into units as it comes, with the items of each; ``first`` fill up an incomplete last four."""
    number = 0
    while batch := list(islice(items, 4 * size)):
        indices = [index for index, _ in batch]
        missing = -len(batch) % 4
        members = (*indices, *first[:missing])
        own = (True,) * len(indices) + (False,) * missing
        yield Unit(number, members, own), batch
        number += 1


def require_four(count: int, whole: int = 0, option: str = "") -> None:
    """Refuse samples that make no mosaic; ``option`` is what takes ``count`` of the ``whole`` data set alone."""
    if count < 4 <= whole:
        raise DataError(
            f"a mosaic takes four different pictures, and {count} of the data set's {whole} are taken: give <{option}>",
            **{option: "4"},
        )
    if count < 4:
        raise DataError(f"a mosaic takes four different pictures, the data set has {count}")
