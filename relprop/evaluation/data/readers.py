"""Reading the samples of units, in this process or in workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from relprop.errors import RelpropError, first_line
from relprop.evaluation.data.datasets import Source, Stream
from relprop.evaluation.data.samples import DataError, Reader, Sample
from relprop.evaluation.data.units import Unit, require_four, stream_units

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
    workers = min(workers, len(units))
    loader = DataLoader(data, batch_size=None, shuffle=False, num_workers=workers, worker_init_fn=_leave_interrupts)
    try:
        yield from zip(units, loader, strict=True)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerError(
            f"a worker process that reads pictures died ({first_line(error)}): out of memory, or killed. What is "
            "committed stays: resume the run, with fewer workers"
        ) from error


def _leave_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that commits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Reserve:
    """The samples that fill up, in their order: those of the permutation, or of the stream, that can be read.

    Parameters
    ----------
    samples : iterator of Sample
        In their order; they are read when they are needed.
    fetch : callable
        Reads the sample at an index, whether it is one of these or not.
    """

    def __init__(self, samples: Iterator[Sample], fetch: Callable[[int], Sample]) -> None:
        self._coming, self._fetch = samples, fetch
        self._seen: list[Sample] = []
        self.errors: list[Sample] = []

    def __iter__(self) -> Iterator[Sample]:
        yield from list(self._seen)
        for sample in self._coming:
            if sample.error:
                self.errors.append(sample)
            else:
                self._seen.append(sample)
                yield sample

    def __getitem__(self, index: int) -> Sample:
        found = next((sample for sample in self._seen if sample.index == index), None)
        return self._fetch(index) if found is None else found

    def first(self) -> list[Sample]:
        """Return the first four.

        Raises
        ------
        DataError
            There are no four.
        """
        four = list(islice(self, 4))
        if len(four) < 4:
            why = f"; sample {self.errors[0].index}: {self.errors[0].error}" if self.errors else ""
            raise DataError(
                f"a mosaic takes four different pictures, and only {len(four)} of the data set's can be read{why}"
            )
        return four


def first_four(reserve: Reserve) -> Tensor:
    """Return the first four pictures that can be read, ``(4, C, H, W)``; raise `DataError` where there are no four."""
    return torch.stack([sample.x for sample in reserve.first() if sample.x is not None])


def read_stream(stream: Stream, reader: Reader, size: int) -> tuple[Reserve, Iterator[Read]]:
    """Return the samples of a stream that fill up, and an iterator of units with their samples.

    All pictures must have the shape of the first that can be read. What fills up are the first eight that can be read:
    four may be in the mosaic itself.
    """
    items = _items(stream, _OneShape(reader))
    ahead: list[tuple[int, Sample]] = []
    readable: list[Sample] = []
    failed: list[Sample] = []
    for index, sample in items:
        ahead.append((index, sample))
        (failed if sample.error else readable).append(sample)
        if len(readable) == 2 * 4:
            break
    by_index = {sample.index: sample for sample in readable}
    reserve = Reserve(
        iter([*failed, *readable]), lambda index: by_index.get(index, Sample(index, error="it is not at hand any more"))
    )
    spare = {sample.index: sample for sample in readable[:4]}
    units = stream_units(chain(ahead, items), size, list(spare))
    return reserve, ((unit, spare | dict(batch)) for unit, batch in units)


def read_reserve(source: Source, reader: Reader, seed: int) -> Reserve:
    """Return the samples of a data set that fill up: they are read when they are needed.

    All must have the shape of the first of them.
    """
    order = source.order(seed).tolist()
    require_four(len(order), source.count, "limit" if source.per_class is None else "per_class")
    reading = _OneShape(reader)
    return Reserve((reading(index, source.fetch) for index in order), lambda index: reading(index, source.fetch))


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
