"""Reading the samples of units, in this process or in workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from torch.utils.data import DataLoader, Dataset

from relprop.errors import RelpropError
from relprop.evaluation.plan import Unit, require_four, stream_units
from relprop.evaluation.samples import DataError, Reader, Sample
from relprop.evaluation.sources import Source, Stream
from relprop.export import first_line
from relprop.gae import mosaic_members

Read = tuple[Unit, dict[int, Sample]]
"""A unit, and its samples by index."""


class WorkerError(RelpropError, RuntimeError):
    """A worker process that reads pictures died."""


class ReadUnits(Dataset[dict[int, Sample]]):
    """The samples of each unit, as a data set of PyTorch's loader."""

    def __init__(self, fetch: Callable[[int], Any], reader: Reader, units: Sequence[Unit]) -> None:
        self.fetch, self.reader, self.units = fetch, reader, units

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, number: int) -> dict[int, Sample]:
        return {index: self.reader(index, self.fetch) for index in dict.fromkeys(self.units[number].members)}


def read_units(source: Source, reader: Reader, units: Sequence[Unit], workers: int) -> Iterator[Read]:
    """Yield units with their samples.

    Raises
    ------
    WorkerError
        A worker process died.
    """
    data = ReadUnits(source.fetch, reader, units)
    if not workers or not units:
        yield from ((unit, data[number]) for number, unit in enumerate(units))
        return
    loader = DataLoader(data, batch_size=None, shuffle=False, num_workers=min(workers, len(units)))
    try:
        yield from zip(units, loader, strict=True)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerError(
            f"a worker process that reads pictures died ({first_line(error)}): out of memory, or killed. What is "
            "committed stays: resume the run, with fewer workers"
        ) from error


def read_stream(stream: Stream, reader: Reader, size: int) -> tuple[list[Sample], Iterator[Read]]:
    """Return the first four samples of a stream that can be read, and an iterator of units with their samples.

    All pictures must have the shape of the first of them.

    Raises
    ------
    DataError
        No four samples can be read, or the stream itself fails.
    """
    items = _items(stream, _OneShape(reader))
    ahead: list[tuple[int, Sample]] = []
    reserve: list[Sample] = []
    for index, sample in items:
        ahead.append((index, sample))
        if sample.x is not None:
            reserve.append(sample)
        if len(reserve) == 4:
            break
    _require_readable(reserve, [sample for _, sample in ahead])
    spare = {sample.index: sample for sample in reserve}
    units = stream_units(chain(ahead, items), size, list(spare))
    return reserve, ((unit, spare | dict(batch)) for unit, batch in units)


def read_reserve(source: Source, reader: Reader, seed: int) -> list[Sample]:
    """Return the first four samples of the permutation that can be read: they take the slots of those that can't.

    All must have the shape of the first of them.

    Raises
    ------
    DataError
        There are no four.
    """
    require_four(source.count)
    reading = _OneShape(reader)
    reserve: list[Sample] = []
    failed: list[Sample] = []
    for index in dict.fromkeys(mosaic_members(source.count, seed).flatten().tolist()):
        sample = reading(index, source.fetch)
        (failed if sample.x is None else reserve).append(sample)
        if len(reserve) == 4:
            break
    _require_readable(reserve, failed)
    return reserve


class _OneShape:
    """A reader that refuses pictures of another shape than the first one that could be read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __call__(self, index: int, fetch: Callable[[int], Any]) -> Sample:
        sample = self._reader(index, fetch)
        if sample.x is not None and self._reader.shape is None:
            self._reader = replace(self._reader, shape=tuple(sample.x.shape))
        return sample


def _items(stream: Stream, reader: _OneShape) -> Iterator[tuple[int, Sample]]:
    found = iter(stream)
    position = 0
    while True:
        try:
            index, item = next(found)
        except StopIteration:
            return
        except RelpropError:
            raise
        except Exception as error:  # whatever an iterable of anybody's raises; it can't be asked for more then
            raise DataError(
                f"the stream of samples failed after {position}: {type(error).__name__}: {first_line(error)}"
            ) from error
        position = index + 1
        yield index, reader(index, lambda _, item=item: item)  # type: ignore[misc]


def _require_readable(reserve: Sequence[Sample], seen: Sequence[Sample]) -> None:
    if len(reserve) < 4:
        errors = [sample for sample in seen if sample.error]
        why = f"; sample {errors[0].index}: {errors[0].error}" if errors else ""
        raise DataError(
            f"a mosaic takes four different pictures, and only {len(reserve)} of the data set's can be read{why}"
        )
