"""All maps of a unit under one method, in chunks of one fixed size; what fails is found sample by sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relprop.errors import RelpropError, first_line
from relprop.evaluation.methods.base import Method, Request
from relprop.evaluation.pipeline.masking import Masking
from relprop.evaluation.seeding import forked_random
from relprop.gae import MapError
from relprop.gae.checks import check_map, wide
from relprop.gae.masking import Baseline
from relprop.gae.procedures import Procedure
from relprop.gae.states import MAPS_PER_SAMPLE, PICTURE, describe_state, pictures_of_state
from relprop.run.memory import OutOfMemoryError, memory_for


class MethodFailureError(RelpropError, RuntimeError):
    """A method failed on a sample, where the run was to stop at that."""


@dataclass(frozen=True, eq=False)
class Explained:
    """The maps of the samples that are scored in a unit.

    Parameters
    ----------
    positive : Tensor
        What speaks for the class in each state, ``(20, B, H, W)``, of elements ``(20, B, C, H, W)``; of a method that
        has maps of pictures alone the first axis is 1. Of failed samples they stand for nothing.
    picture : Tensor
        Maps of the pictures as the method made them, ``(B, C, H, W)`` or ``(B, 1, H, W)``.
    errors : dict
        From the position of a sample among them to why the method failed on it.
    seconds : float
        Time that the method took.
    """

    positive: Tensor
    picture: Tensor
    errors: dict[int, str]
    seconds: float


@dataclass(eq=False)
class _Maps:
    """What is collected of some slots of a unit: maps as in `Explained`, of all its slots, and errors by slot."""

    positive: Tensor
    picture: Tensor | None = None
    errors: dict[int, str] = field(default_factory=dict)


def explain_unit(
    method: Method,
    masking: Masking,
    *,
    baseline: Baseline,
    procedure: Procedure,
    size: int,
    key: Sequence[object],
    fail_fast: bool = False,
) -> Explained:
    """Compute a method's maps of a unit's samples: pictures, masked states, mosaics.

    Parameters
    ----------
    method : Method
        Which makes the maps.
    masking : Masking
        Of the unit.
    baseline : float, sequence of float or Tensor
        Colour of masked pixels.
    procedure : Procedure
        The protocol.
    size : int
        Pictures in each call; the last is filled up.
    key : sequence
        What stochastic methods are seeded by.
    fail_fast : bool
        Whether the first failure is raised.

    Raises
    ------
    MethodFailureError
        The method failed on a sample, and that shall stop the run.
    OutOfMemoryError
        So many pictures at once don't fit into memory.
    """
    work = _Work(method, masking, baseline, procedure, size, tuple(key))
    scored = masking.batch.scored
    start = time.perf_counter()
    try:
        maps = work.ask(range(len(masking.batch.occupants)))
    except OutOfMemoryError:
        raise
    except Exception:  # whatever a method of anybody's raises: which of the samples is it?
        maps = work.ask_each(scored)
    _synchronize(masking.batch.x.device)
    seconds = time.perf_counter() - start
    errors = {place: maps.errors[slot] for place, slot in enumerate(scored) if slot in maps.errors}
    if errors and fail_fast:
        place = min(errors)
        sample = masking.batch.samples[place]
        raise MethodFailureError(f"sample {sample.index} {sample.name}: {errors[place]}")
    picture = maps.picture
    if picture is None:  # it failed on all: zeros stand for them
        picture = maps.positive[PICTURE].reshape(len(masking.batch.x), -1, *masking.batch.x.shape[2:])
    slots = list(scored)
    return Explained(maps.positive[:, slots], picture[slots], errors, seconds)


@dataclass(frozen=True, eq=False)
class _Work:
    """A method and the unit that it explains."""

    method: Method
    masking: Masking
    baseline: Baseline
    procedure: Procedure
    size: int
    key: tuple[object, ...]

    @property
    def states(self) -> range:
        return range(PICTURE, PICTURE + 1) if self.method.pictures_only else range(MAPS_PER_SAMPLE)

    def ask(self, slots: Sequence[int]) -> _Maps:
        """Compute the maps of some slots, state after state, in full chunks."""
        x, index = self.masking.batch.x, self.masking.batch.index
        maps, target, steps = self._empty(), self.masking.target, self.masking.steps
        pairs = [(state, slot) for state in self.states for slot in slots]
        shown: dict[int, Tensor] = {}
        with forked_random(x.device, *self.key):
            for start in range(0, len(pairs), self.size):
                chunk = pairs[start : start + self.size]
                filled = [chunk[k % len(chunk)] for k in range(self.size)]
                for state in {state for state, _ in chunk} - shown.keys():
                    shown[state] = pictures_of_state(x, steps, state, self.baseline, self.procedure.mosaics)
                chosen = [slot for _, slot in filled]
                request = Request(
                    torch.stack([shown[state][slot] for state, slot in filled]),
                    target[chosen],
                    tuple(index[slot] for slot in chosen),
                    tuple(state for state, _ in filled),
                )
                with memory_for(self.size):
                    self._keep(maps, chunk, self.method.maps(request))
                shown = {state: pictures for state, pictures in shown.items() if state >= chunk[-1][0]}
        return maps

    def ask_each(self, slots: Sequence[int]) -> _Maps:
        """Compute the maps of one slot after the other, and note for which the method fails."""
        maps = self._empty()
        for slot in slots:
            try:
                found = self.ask([slot])
            except OutOfMemoryError:
                raise
            except Exception as error:  # as in explain_unit
                own = isinstance(error, RelpropError)
                maps.errors[slot] = str(error) if own else f"{type(error).__name__}: {first_line(error)}"
                continue
            maps.errors |= found.errors
            maps.positive[:, slot] = found.positive[:, slot]
            if found.picture is not None:
                if maps.picture is None:
                    maps.picture = torch.zeros_like(found.picture)
                if maps.picture.shape != found.picture.shape:
                    maps.errors[slot] = f"the map has {found.picture.shape[1]} channels, others {maps.picture.shape[1]}"
                    continue
                maps.picture[slot] = found.picture[slot]
        return maps

    def _empty(self) -> _Maps:
        x = self.masking.batch.x
        shape = (len(self.states), len(x), *x.shape[1 if self.procedure.elements else 2 :])
        return _Maps(x.new_zeros(shape, dtype=torch.promote_types(x.dtype, torch.float32)))

    def _keep(self, maps: _Maps, chunk: Sequence[tuple[int, int]], found: Tensor) -> None:
        """Check the maps of a chunk, ``(size, C, H, W)`` at most, and keep what is needed of them."""
        x = self.masking.batch.x
        if not isinstance(found, Tensor):
            raise MapError(f"the method must return a tensor, not a {type(found).__name__}")
        if found.ndim == 0 or len(found) != self.size:
            raise MapError(f"the method was asked for {self.size} maps, and returned {tuple(found.shape)}")
        found = wide(found.detach().to(x.device)) if not found.is_complex() else found
        found = found[: len(chunk)]
        finite = found.isfinite().flatten(1).all(1)
        for bad in (~finite).nonzero().flatten().tolist():
            state, slot = chunk[bad]
            maps.errors.setdefault(slot, f"the map of the {describe_state(state)} holds NaN or infinite values")
        found = torch.where(finite.reshape(-1, *[1] * (found.ndim - 1)), found, 0.0)
        lead, size = (len(chunk),), x.shape[2:]
        positive = self.procedure.positive(found, lead, size, x.shape[1])
        for place, (state, slot) in enumerate(chunk):
            maps.positive[state - self.states.start, slot] = positive[place]
        pictures = [(place, slot) for place, (state, slot) in enumerate(chunk) if state == PICTURE]
        if pictures:
            raw = check_map(found, lead, size)
            if maps.picture is None:
                maps.picture = raw.new_zeros((len(x), *raw.shape[1:]))
            for place, slot in pictures:
                maps.picture[slot] = raw[place]


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
