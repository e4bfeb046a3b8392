"""A unit of work as tensors of fixed shape: pictures in the slots of its mosaics, whatever could be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.evaluation.plan import Unit
from relprop.evaluation.samples import DataError, Sample


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
    reserve: Sequence[Sample],
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
    reserve : sequence of Sample
        Four that could be read.
    mosaics : int
        How many mosaics every unit has.
    device : torch.device
        Where the pictures go.
    unusable : mapping, optional
        Samples that could be read and still can't be used, with the reason.
    """
    unusable = unusable or {}
    failed: list[Sample] = []
    occupants: list[Sample] = []
    scored: list[int] = []
    for start in range(0, len(unit.members), 4):
        four = [_unless(samples[member], unusable) for member in unit.members[start : start + 4]]
        there = {sample.index for sample in four if not sample.error}
        for place, sample in enumerate(four):
            own = unit.own[start + place]
            if sample.error:
                if own:
                    failed.append(sample)
                sample = _filler(reserve, there, unusable)
                there.add(sample.index)
            elif own:
                scored.append(len(occupants))
            occupants.append(sample)
    while len(occupants) < 4 * mosaics:
        occupants.append(occupants[len(occupants) % 4])
    x = torch.stack([sample.x for sample in occupants if sample.x is not None]).to(device)
    return Batch(unit, x, tuple(occupants), tuple(scored), tuple(failed))


def _unless(sample: Sample, unusable: Mapping[int, str]) -> Sample:
    if sample.error or sample.index not in unusable:
        return sample
    return Sample(sample.index, label=sample.label, name=sample.name, error=unusable[sample.index])


def _filler(reserve: Sequence[Sample], there: set[int], unusable: Mapping[int, str]) -> Sample:
    for sample in reserve:
        if sample.index not in there and sample.index not in unusable:
            return sample
    raise DataError("too few samples can be used to fill up a mosaic of four")
