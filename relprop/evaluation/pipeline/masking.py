"""The masking run of a unit, which all methods share: computed, written down, read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.errors import RelpropError, first_line
from relprop.evaluation.data.batches import Batch
from relprop.evaluation.data.samples import DataError
from relprop.evaluation.settings import TargetKind
from relprop.evaluation.subject import EvaluatedModel
from relprop.gae import STATES, Flag, MaskingRun, Quadrants
from relprop.gae.masking import Baseline
from relprop.gae.procedures import Procedure
from relprop.run.memory import OutOfMemoryError, memory_for

Assemble = Callable[[Mapping[int, str]], Batch]
"""From samples that can't be used, with the reasons, to the unit without them."""

Part = TypeVar("Part", MaskingRun, Quadrants)

READ_BACK = (
    "target",
    "output",
    "steps",
    "impact",
    "logit",
    "probability",
    "mosaic_members",
    "quadrant_scores",
    "flags",
)
"""What of a sample's masking run is needed to score another method."""


@dataclass(frozen=True, eq=False)
class Masking:
    """What the model does with the samples that are scored in a unit.

    Parameters
    ----------
    batch : Batch
        The unit.
    run : MaskingRun
        Of its scored samples.
    quadrants : Quadrants
        Of the same.
    """

    batch: Batch
    run: MaskingRun
    quadrants: Quadrants

    @property
    def target(self) -> Tensor:
        """Class of each slot, ``(4 M,)``; of what fills up 0, whatever it is: its maps are not looked at."""
        return self._spread(self.run.target, 0)

    @property
    def steps(self) -> Tensor:
        """Step images of each slot, ``(4 M, 2, H, W)``, or of elements; nothing is ever masked in what fills up."""
        return self._spread(self.run.steps, STATES)

    def _spread(self, values: Tensor, fill: int) -> Tensor:
        """Return values ``(scored, ...)`` for all slots, ``(4 M, ...)``; other slots get one value."""
        slots = values.new_full((len(self.batch.occupants), *values.shape[1:]), fill)
        slots[list(self.batch.scored)] = values
        return slots


def mask_unit(
    subject: EvaluatedModel,
    assemble: Assemble,
    kind: TargetKind,
    baseline: Baseline,
    procedure: Procedure,
    try_model: Callable[[], object],
) -> Masking | Batch:
    """Run the masking run of a unit; samples on which the model fails are left out of it.

    Where it fails on all of them, ``try_model`` is called, which raises if the model has ceased to work.

    Returns
    -------
    Masking or Batch
        The batch alone where none of its samples can be scored.
    """
    unusable: dict[int, str] = {}
    while True:
        batch = assemble(unusable)
        if not batch.scored:
            return batch
        target = batch.labels if kind == "label" else None
        try:
            with memory_for(2 * len(batch.x)):
                run = procedure.run(subject.call, batch.x, target, baseline)
            break
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{error} (of the masking run: a smaller unit has fewer)") from error
        except Exception:  # whatever anybody's model raises: on which of the samples?
            found = _failing(subject, batch, target, baseline, procedure)
            if not found:
                raise
            unusable |= found
            if all(sample.index in unusable for sample in batch.occupants):
                try_model()
    quadrants = procedure.quadrants(run.output, run.target, batch.labels)
    slots = torch.tensor(batch.scored, device=batch.x.device)
    return Masking(batch, _select(run, slots), _select(quadrants, slots))


def sample_rows(masking: Masking) -> dict[str, Any]:
    """Return what the file keeps of the masking run, by names of the file's fields."""
    batch, run = masking.batch, masking.run
    flags = (
        (run.undefined, Flag.IMPACT),
        (masking.quadrants.undefined, Flag.CONTRASTIVENESS),
        (masking.quadrants.one_class, Flag.ONE_CLASS),
    )
    return {
        "index": np.array([sample.index for sample in batch.samples]),
        "name": [sample.name for sample in batch.samples],
        "label": np.array([sample.label for sample in batch.samples]),
        "prediction": run.output.argmax(1).cpu().numpy(),
        "target": run.target.cpu().numpy(),
        "mosaic_members": batch.members,
        "quadrant": np.array(batch.scored) % 4,
        "quadrant_scores": masking.quadrants.scores.cpu().numpy(),
        "logit": run.logit.cpu().numpy(),
        "probability": run.probability.cpu().numpy(),
        "output": run.output.cpu().numpy(),
        "steps": run.steps.cpu().numpy(),
        "impact": run.impact.cpu().numpy(),
        "flags": sum(where.cpu().numpy().astype(np.uint8) * np.uint8(flag) for where, flag in flags),
    }


def read_back(batch: Batch, arrays: Mapping[str, NDArray[Any]]) -> Masking:
    """Restore the masking run of a unit from the arrays ``(scored, ...)`` of a file, `READ_BACK`."""
    found = {name: torch.from_numpy(values).to(batch.x.device) for name, values in arrays.items()}
    flags = found["flags"]
    run = MaskingRun(
        target=found["target"].long(),
        output=found["output"],
        steps=found["steps"],
        impact=found["impact"],
        logit=found["logit"],
        probability=found["probability"],
        undefined=(flags & Flag.IMPACT) != 0,
    )
    scores = found["quadrant_scores"]
    return Masking(batch, run, Quadrants(scores, (flags & Flag.CONTRASTIVENESS) != 0, (flags & Flag.ONE_CLASS) != 0))


def check_labels(batch: Batch, classes: int, *, needed: bool) -> None:
    """Refuse labels that the model has no class for, and samples without one where labels are explained.

    Raises
    ------
    DataError
    """
    for sample in batch.occupants:
        if sample.label >= classes:
            raise DataError(
                f"sample {sample.index} ({sample.name or 'without a name'}) has label {sample.label}, but the model "
                f"has classes 0 to {classes - 1}"
            )
        if needed and sample.label < 0:
            raise DataError(
                f'sample {sample.index} ({sample.name or "without a name"}) has no label, which target="label" and '
                'protocol="released" need: give (picture, label), a folder for each class or a table of labels'
            )


def _failing(
    subject: EvaluatedModel, batch: Batch, target: Tensor | None, baseline: Baseline, procedure: Procedure
) -> dict[int, str]:
    """Find the samples on which the model fails by itself, of classes ``(4 M,)`` if these are given."""
    found = {}
    for slot, sample in enumerate(batch.occupants):
        if sample.index in found:
            continue
        try:
            one = None if target is None else target[slot : slot + 1]
            with memory_for(2):
                procedure.run(subject.call, batch.x[slot : slot + 1], one, baseline)
        except OutOfMemoryError:
            raise
        except Exception as error:  # as in mask_unit
            own = isinstance(error, RelpropError)
            found[sample.index] = (
                f"the model fails on it: {error if own else f'{type(error).__name__}: {first_line(error)}'}"
            )
    return found


def _select(values: Part, slots: Tensor) -> Part:
    """Return the entries at some slots, ``(slots, ...)``, of every field."""
    return type(values)(*(getattr(values, field.name)[slots] for field in fields(values)))
