"""A unit of work as tensors of fixed shape: the pictures that could be read, in the slots of its mosaics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.evaluation.data.samples import DataError, Sample
from relprop.evaluation.data.units import Unit


@dataclass(frozen=True, eq=False)
class Batch:
    """A unit, assembled.

    Parameters
    ----------
    unit : Unit
        What it was made of.
    x : Tensor
        ``(4 M, C, H, W)``, M being the mosaics of every unit of the run.
    occupants : tuple of Sample
        Which sample's picture each slot shows, ``4 M``.
    scored : tuple of int
        The slots whose samples are scored here; the others show what fills up.
    failed : tuple of Sample
        The unit's samples that can't be scored, with their errors.
    """

    unit: Unit
    x: Tensor
    occupants: tuple[Sample, ...]
    scored: tuple[int, ...]
    failed: tuple[Sample, ...]

    @property
    def index(self) -> tuple[int, ...]:
        """Indices of the samples in the slots."""
        return tuple(sample.index for sample in self.occupants)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples that are scored here."""
        return tuple(self.occupants[slot] for slot in self.scored)

    @property
    def members(self) -> NDArray[np.int64]:
        """Sample indices in the mosaic of each scored sample, ``(scored, 4)``."""
        fours = np.array(self.index, np.int64).reshape(-1, 4)
        return fours[np.array(self.scored, np.int64) // 4]

    @property
    def labels(self) -> Tensor:
        """Labels of the samples in the slots, ``(4 M,)``, -1 for none."""
        return torch.tensor([sample.label for sample in self.occupants], device=self.x.device)


def assemble(
    unit: Unit,
    samples: Mapping[int, Sample],
    reserve: Iterable[Sample],
    mosaics: int,
    device: torch.device,
    unusable: Mapping[int, str] | None = None,
) -> Batch:
    """Fill the slots of a unit's mosaics.

    The slot of a sample that can't be used goes to the first of ``reserve`` that is not in the mosaic, as an
    incomplete last four is filled up; missing mosaics of the last unit repeat its first.

    Parameters
    ----------
    unit : Unit
        Which samples.
    samples : mapping
        By index, as they were read.
    reserve : iterable of Sample
        What fills up, in its order.
    mosaics : int
        How many mosaics every unit has.
    device : torch.device
        Where the pictures go.
    unusable : mapping, optional
        Samples that could be read and still can't be used, with the reason.
    """
    unusable = unusable or {}
    occupants: list[Sample] = []
    for start in range(0, len(unit.members), 4):
        four = [samples[member] for member in unit.members[start : start + 4]]
        there = {sample.index for sample in four if not sample.error and sample.index not in unusable}
        for sample in four:
            if sample.index not in there:
                sample = _filler(reserve, there, unusable)
                there.add(sample.index)
            occupants.append(sample)
    failed = [
        sample if sample.error else replace(sample, x=None, error=unusable[sample.index])
        for sample in (samples[index] for index in unit.samples)
        if sample.error or sample.index in unusable
    ]
    return _stacked(unit, occupants, failed, mosaics, device)


def assemble_again(
    unit: Unit,
    samples: Mapping[int, Sample],
    find: Callable[[int], Sample],
    mosaics: int,
    device: torch.device,
    members: Mapping[int, Sequence[int]],
    unusable: Mapping[int, str],
) -> Batch:
    """Fill the slots of a unit's mosaics as they were filled before.

    Parameters
    ----------
    unit, samples, mosaics, device
        As for `assemble`.
    find : callable
        Reads the sample at an index.
    members : mapping
        From each sample that is scored to the four of its mosaic.
    unusable : mapping
        The unit's other samples, and why they could not be used.

    Raises
    ------
    DataError
        One of them can't be read any more.
    """
    occupants: list[Sample] = []
    for start in range(0, len(unit.members), 4):
        four = unit.members[start : start + 4]
        partners = next((members[index] for index in four if index in members), None)
        for index in four if partners is None else map(int, partners):
            sample = samples[index] if index in samples else find(index)
            if sample.error and partners is not None:
                raise DataError(f"sample {index} was in a mosaic, and can't be read any more: {sample.error}")
            occupants.append(sample)
    # A mosaic of which nothing is scored may show anything.
    readable = next(sample for sample in occupants if not sample.error)
    occupants = [readable if sample.error else sample for sample in occupants]
    failed = [replace(samples[index], x=None, error=message) for index, message in unusable.items()]
    return _stacked(unit, occupants, failed, mosaics, device)


def _stacked(
    unit: Unit, occupants: list[Sample], failed: Sequence[Sample], mosaics: int, device: torch.device
) -> Batch:
    lost = {sample.index for sample in failed}
    scored = [
        slot
        for slot, (member, own) in enumerate(zip(unit.members, unit.own, strict=True))
        if own and member not in lost
    ]
    full = occupants + [occupants[k % 4] for k in range(4 * mosaics - len(occupants))]
    x = torch.stack([sample.x for sample in full if sample.x is not None]).to(device)
    return Batch(unit, x, tuple(full), tuple(scored), tuple(failed))


def _filler(reserve: Iterable[Sample], there: set[int], unusable: Mapping[int, str]) -> Sample:
    for sample in reserve:
        if sample.index not in there and sample.index not in unusable:
            return sample
    raise DataError("too few samples can be used to fill up a mosaic of four")
