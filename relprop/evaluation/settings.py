"""The settings of a run, on which its scores depend."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from relprop.errors import InputError
from relprop.evaluation.data.datasets import Source, Stream
from relprop.evaluation.data.units import check_shard
from relprop.evaluation.subject import EvaluatedModel
from relprop.gae.masking import Baseline, as_colour
from relprop.gae.procedures import Procedure, ProtocolName, choose_procedure
from relprop.versions import PACKAGES as ALWAYS
from relprop.versions import version

PACKAGES = (*ALWAYS, "numpy", "h5py")

TargetKind = Literal["prediction", "label"]
"""Which class is explained."""


def stored_maps(relevance: object) -> Literal["summed", "channels"] | None:
    """Return what a file keeps of the maps, for the argument ``relevance`` of `relprop.evaluate`.

    Raises
    ------
    InputError
        If it is something else.
    """
    if relevance is None or relevance is False:
        return None
    if relevance is True or relevance == "map":
        return "summed"
    if relevance == "channels":
        return "channels"
    raise InputError(f'relevance must be False, "map" or "channels", not {relevance!r}')


@dataclass(frozen=True, eq=False)
class Settings:
    """What all scores of a run depend on beside model and data.

    Parameters
    ----------
    seed : int
        Of mosaics and of everything drawn.
    unit : int
        Mosaics per unit of work.
    batch_size : int
        Pictures in each call of a method.
    baseline : float, sequence of float or Tensor
        Colour of masked pixels.
    target : {"prediction", "label"}
        Class that is explained.
    shard : tuple of int
        ``(i, n)``.
    protocol : {"gae", "released"}
        The definition, or what the authors' code does.
    """

    seed: int
    unit: int
    batch_size: int
    baseline: Baseline
    target: TargetKind
    shard: tuple[int, int]
    protocol: ProtocolName = "gae"

    def __post_init__(self) -> None:
        for name in ("unit", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"seed can't be negative: {self.seed}")
        if self.target not in ("prediction", "label"):
            raise InputError(f'target must be "prediction" or "label", not {self.target!r}')
        check_shard(self.shard)
        choose_procedure(self.protocol)

    @property
    def procedure(self) -> Procedure:
        """The steps of the protocol."""
        return choose_procedure(self.protocol)

    @property
    def needs_labels(self) -> bool:
        """Whether a sample without a label can't be scored."""
        return self.target == "label" or self.procedure.needs_labels

    def config(self, subject: EvaluatedModel, source: Source | Stream, shape: Sequence[int]) -> dict[str, Any]:
        """Return the file's configuration: what JSON can say, the same in every process."""
        as_colour(self.baseline, torch.zeros(1, *shape))  # refused now if it does not fit
        return {
            "protocol": self.protocol,
            "model": subject.identity(),
            "data": {**source.identity, "preparation": subject.preparation()},
            "samples": source.count if isinstance(source, Source) else None,
            "shard": list(self.shard),
            "picture": list(shape),
            "seed": self.seed,
            "unit": self.unit,
            "batch_size": self.batch_size,
            "baseline": torch.as_tensor(self.baseline, dtype=torch.float64).tolist(),
            "target": self.target,
        }


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions of the software, and what it runs on: only the same give the same scores, bit for bit."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = str(torch.get_num_threads())
    return {"python": platform.python_version(), "device": name, "threads": threads} | {
        package: version(package) for package in PACKAGES
    }
