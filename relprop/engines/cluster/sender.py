"""What is sent with shards to nodes that do not see it: pictures, and files that were begun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.engines.cluster.pictures import read_contents
from relprop.engines.cluster.task import Parcel, load_file
from relprop.engines.worker import Shard
from relprop.evaluation.data.folders import Listing
from relprop.evaluation.data.units import plan_units

FIRST = 8
"""Pictures of the seeded order that any shard may need: they fill up where others can't be read."""


class Sender:
    """Sends nothing until a task lacks something; from then on every task gets such things, and fetches what it needs.

    Parameters
    ----------
    ray : module
    listing : Listing, optional
        The pictures; None where the data set is no folder.
    unit : int
        Mosaics per unit of work.
    """

    order: NDArray[np.int64]
    """The indices of the samples in their order, ``(N,)``; it is found later."""

    def __init__(self, ray: Any, listing: Listing | None, unit: int) -> None:
        self._ray, self._listing, self._unit = ray, listing, unit
        self._files, self._wanted = False, set[int]()

    def learn(self, parcel: Parcel) -> bool:
        """Say whether a task lacked something, which is sent from now on."""
        if parcel.lacks is not None:
            self._wanted.add(parcel.lacks)
        self._files |= parcel.lacks_file
        return parcel.lacks_file or parcel.lacks is not None

    def file_of(self, shard: Shard) -> Sequence[Any]:
        """Return a reference to the file of a shard, or none."""
        return [self._ray.put(load_file(shard.path))] if self._files else []

    def pictures_of(self, shard: Shard) -> Sequence[Any]:
        """Return a reference to the pictures that a shard needs, or none."""
        if not self._wanted or self._listing is None:
            return []
        units = plan_units(self.order, self._unit, (shard.part, shard.parts))
        own = {index for unit in units for index in unit.members}
        wanted = sorted(own | self._wanted | set(self.order[:FIRST].tolist()))
        return [self._ray.put(read_contents(self._listing.paths, wanted))]
