"""The stream of a run: unit after unit, each method's rows committed as soon as they are there."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.evaluation.data.batches import Batch, assemble, assemble_again
from relprop.evaluation.data.readers import Read, Reserve, first_four
from relprop.evaluation.data.samples import Sample
from relprop.evaluation.data.units import Unit
from relprop.evaluation.methods.base import Method
from relprop.evaluation.metrics import Metrics
from relprop.evaluation.pipeline.explaining import MethodFailureError, explain_unit
from relprop.evaluation.pipeline.interrupts import Interruption
from relprop.evaluation.pipeline.masking import READ_BACK, Masking, check_labels, mask_unit, read_back, sample_rows
from relprop.evaluation.pipeline.progress import Progress
from relprop.evaluation.pipeline.scoring import method_rows
from relprop.evaluation.pipeline.standing import Standing
from relprop.evaluation.pipeline.writer_thread import Background
from relprop.evaluation.settings import Settings
from relprop.evaluation.stopping import Judge, done_scores
from relprop.evaluation.subject import EvaluatedModel, count_classes
from relprop.store import EvaluationWriter, State


@dataclass(eq=False)
class Run:
    """A run: what is fixed for all its units, and what is counted.

    Parameters
    ----------
    subject : EvaluatedModel
        The model.
    methods : mapping
        By name.
    metrics : Metrics
        Beside GAE.
    settings : Settings
        What the scores depend on.
    classes : int
        How many the model has.
    fail_fast : bool
        Whether the first failure of a method stops the run.
    writer : EvaluationWriter
        Of the file.
    states : dict
        Of the file's rows, ``(N,)`` each: under ``""`` those of the masking run, and by method.
    interruption : Interruption
        Obeyed between two commits.
    standing : Standing
        How the methods stand, kept up to date.
    progress : callable, optional
        Called with what is done.
    judge : Judge, optional
        Says when to stop.
    order : ndarray
        Indices of the samples in their order, ``(N,)``, for that.
    """

    subject: EvaluatedModel
    methods: Mapping[str, Method]
    metrics: Metrics
    settings: Settings
    classes: int
    fail_fast: bool
    writer: EvaluationWriter
    states: dict[str, NDArray[np.uint8]]
    interruption: Interruption
    standing: Standing
    progress: Progress | None = None
    judge: Judge | None = None
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    explaining: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    evaluated: int = 0

    def __post_init__(self) -> None:
        self._index = self.writer.index

    def needs_work(self, unit: Unit) -> bool:
        """Whether something of a unit is not in the file."""
        return bool(self._open_parts(unit))

    def work(self, units: Iterable[Read], reserve: Reserve, before: int, total: int | None) -> None:
        """Work off units with their samples, ``before`` samples of a total having been done in earlier runs.

        Raises
        ------
        KeyboardInterrupt
            A signal asked to stop; what was computed is committed.
        """
        with Background() as background:
            done = float(before)
            for unit, samples in self._timed("loading", units):
                if self._is_to_stop(4 * self.settings.unit * unit.number, background):
                    break
                parts = self._open_parts(unit)
                for steps in self._work_off(unit, samples, reserve, parts, background):
                    done += len(unit.samples) * steps
                    if self.progress is not None:
                        self.progress(done, total)
                    if self.interruption.requested:
                        background.wait()
                        self.interruption.obey()
                self.evaluated += len(unit.samples) if parts else 0
            else:
                self._is_to_stop(len(self.order), background)
        self.seconds["writing"] = background.seconds

    def _is_to_stop(self, covered: int, background: Background) -> bool:
        """Judge by the first samples, of which so many are done."""
        if self.judge is None or not self.judge.is_due(covered):
            return False
        background.wait()
        with background.lock:
            return self.judge.look(self.order, covered, self._scores)

    def _scores(self, samples: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield for each method the scores ``(n,)`` of those of the samples ``(N,)`` that it has done."""
        assert self.judge is not None
        rows, score = np.searchsorted(self._index, samples), self.judge.rule.score
        for name in self.methods:
            found = self.writer.read_method(name, rows, [score, "state"])
            yield done_scores(found[score], found["state"])

    def _work_off(
        self,
        unit: Unit,
        samples: Mapping[int, Sample],
        reserve: Reserve,
        parts: Sequence[str],
        background: Background,
    ) -> Iterator[float]:
        """Do what is missing of a unit, and yield what share of it each step was."""
        if not parts:
            yield 1.0
            return
        rows = self._rows(unit, background)
        masking = self._mask(unit, samples, reserve, rows, background)
        if "" in parts:
            yield 1 / len(parts)
        for name in (part for part in parts if part):
            if isinstance(masking, Masking):
                self._explain(name, masking, rows, background)
            else:
                background.submit(partial(self._write_method, name, masking, rows, None))
            yield 1 / len(parts)

    def _mask(
        self,
        unit: Unit,
        samples: Mapping[int, Sample],
        reserve: Reserve,
        rows: Mapping[int, int],
        background: Background,
    ) -> Masking | Batch:
        """Do the masking run of a unit, or take it from the file."""
        device, mosaics = self.subject.device, self.settings.unit
        places = [rows[index] for index in unit.samples]
        states = self._of(places, "")
        if (states == State.ABSENT).any():
            with self._clock("masking"):
                masking = mask_unit(
                    self.subject,
                    lambda unusable: self._checked(assemble(unit, samples, reserve, mosaics, device, unusable)),
                    self.settings.target,
                    self.settings.baseline,
                    self.settings.procedure,
                    lambda: count_classes(self.subject, first_four(reserve)),
                )
            batch = masking.batch if isinstance(masking, Masking) else masking
            self.standing.failed += len(batch.failed)
            columns = sample_rows(masking) if isinstance(masking, Masking) else None
            background.submit(partial(self._write_samples, batch, rows, columns))
            return masking
        with background.lock:
            messages = self._messages(unit, rows)
            done = [rows[index] for index in unit.samples if index not in messages]
            if not done:
                return self._checked(assemble(unit, samples, reserve, mosaics, device, messages))
            arrays = self.writer.read_samples(done, READ_BACK)
        members = dict(zip((i for i in unit.samples if i not in messages), arrays["mosaic_members"], strict=True))
        batch = assemble_again(unit, samples, reserve.__getitem__, mosaics, device, members, messages)
        return read_back(self._checked(batch), arrays)

    def _explain(self, name: str, masking: Masking, rows: Mapping[int, int], background: Background) -> None:
        method, settings = self.methods[name], self.settings
        key = (settings.seed, masking.batch.unit.number, name)
        try:
            explained = explain_unit(
                method,
                masking,
                baseline=settings.baseline,
                procedure=settings.procedure,
                size=settings.batch_size,
                key=key,
                fail_fast=self.fail_fast,
            )
        except MethodFailureError as error:
            raise MethodFailureError(f"method {name} failed on {error}") from error
        self.seconds["explaining"] += explained.seconds
        self.explaining[name] += explained.seconds
        with self._clock("scoring"):
            columns = method_rows(
                masking,
                explained,
                metrics=self.metrics,
                model=self.subject.call,
                baseline=settings.baseline,
                procedure=settings.procedure,
                key=key,
                keep=self.writer.maps_of(name),
                remark=method.pictures_only,
            )
        self.standing.gae[name].add(columns["gae"])
        self.standing.failed += len(explained.errors)
        background.submit(partial(self._write_method, name, masking.batch, rows, columns))

    def _write_samples(self, batch: Batch, rows: Mapping[int, int], columns: Mapping[str, Any] | None) -> None:
        if columns is not None:
            self.writer.write_samples([rows[sample.index] for sample in batch.samples], columns)
        if batch.failed:
            self.writer.write_samples(
                [rows[sample.index] for sample in batch.failed],
                {
                    "state": State.FAILED,
                    "message": [sample.error for sample in batch.failed],
                    "name": [sample.name for sample in batch.failed],
                    "label": [sample.label for sample in batch.failed],
                },
            )
        self.writer.commit()

    def _write_method(
        self, name: str, batch: Batch, rows: Mapping[int, int], columns: Mapping[str, Any] | None
    ) -> None:
        if columns is not None:
            self.writer.write_method(name, [rows[sample.index] for sample in batch.samples], columns)
        if batch.failed:
            self.writer.write_method(
                name,
                [rows[sample.index] for sample in batch.failed],
                {"state": State.FAILED, "message": [sample.error for sample in batch.failed]},
            )
        self.writer.commit()

    def _open_parts(self, unit: Unit) -> list[str]:
        """Name what is to be done of a unit: ``""`` for the masking run, then methods."""
        places = np.searchsorted(self._index, unit.samples)
        return [
            name
            for name in ("", *self.methods)
            if (places >= len(self.states[name])).any() or (self.states[name][places] == State.ABSENT).any()
        ]

    def _rows(self, unit: Unit, background: Background) -> dict[int, int]:
        """Return the file's rows of a unit's samples, made if the samples of a stream have none yet."""
        fresh = [index for index in unit.samples if len(self._index) == 0 or index > self._index[-1]]
        if fresh:
            with background.lock:
                self.writer.extend(fresh)
            self._index = np.append(self._index, fresh)  # reading it from the file would take longer with each unit
        places = np.searchsorted(self._index, unit.samples)
        return {index: int(place) for index, place in zip(unit.samples, places, strict=True)}

    def _of(self, places: Sequence[int], name: str) -> NDArray[np.uint8]:
        """Return the states of rows ``(N,)`` as they were when the run began; rows made since are absent."""
        states = self.states[name]
        return np.array([states[place] if place < len(states) else State.ABSENT for place in places], np.uint8)

    def _checked(self, batch: Batch) -> Batch:
        check_labels(batch, self.classes, needed=self.settings.needs_labels)
        return batch

    def _messages(self, unit: Unit, rows: Mapping[int, int]) -> dict[int, str]:
        """Return why samples of a unit could not be scored, from the file."""
        failed = [index for index in unit.samples if self.states[""][rows[index]] == State.FAILED]
        found = self.writer.read_samples([rows[index] for index in failed], ["message"])["message"]
        return dict(zip(failed, found, strict=True))

    @contextmanager
    def _clock(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def _timed(self, phase: str, items: Iterable[Read]) -> Iterator[Read]:
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            item = next(iterator, None)
            self.seconds[phase] += time.perf_counter() - start
            if item is None:
                return
            yield item
