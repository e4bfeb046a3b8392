"""The stream of one ``relprop explain``: read, explain, write, one batch at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from relprop.cli.app import say, warn
from relprop.cli.choices import Choice
from relprop.cli.explaining.cropped import Joined, explain_crops
from relprop.cli.explaining.drawing import readable, verdicts
from relprop.cli.explaining.picture import InputPicture, read_input
from relprop.errors import TargetError
from relprop.explainer import Explainer
from relprop.explanation.captions import arriving
from relprop.explanation.explanation import Explanation
from relprop.models import Classifier, CropError, PictureError, TransformError, ViewError
from relprop.run.memory import OutOfMemoryError, memory_for
from relprop.run.progress import no_bars, progress_bar
from relprop.tracing.disk.cache import record_verified, verified_error
from relprop.verification.oracle import gradient_oracle_error

LOG = logging.getLogger("relprop")


class ResultSink(Protocol):
    """Where explanations go."""

    @property
    def index(self) -> Path:
        """The list of all of them."""

    def fail(self, path: Path, message: str) -> None:
        """Take a picture that could not be explained, and why."""

    def write(self, prepared: InputPicture, explanation: Explanation) -> None:
        """Take a picture, with one sample of the explanation for each class explained."""

    def write_joined(self, joined: Joined) -> None:
        """Take a photograph that was explained crop by crop."""


@dataclass
class Run:
    """One run: what is fixed for all its pictures, and the tally."""

    classifier: Classifier
    explainer: Explainer
    choice: Choice
    results: ResultSink
    quiet: bool = False
    verify: bool = False
    crops: int | Literal["tiles"] | None = None
    tell_failure: Callable[[str], None] = warn
    explained: int = 0
    failed: int = 0
    start_up: float = 0.0  # seconds of the first batch, capture included
    seconds: float = 0.0  # of those after it
    later: int = 0  # their pictures
    conservation: float | None = None
    oracle: float | None = None

    def explain(self, paths: Sequence[Path], batch_size: int) -> None:
        """Explain the pictures batch by batch, holding one batch at a time."""
        # The explanations of one picture's classes share a batch.
        size = max(1, batch_size // self.choice.count)
        with no_bars() if self.quiet else nullcontext(), progress_bar(len(paths), "picture") as progress, no_bars():
            for path in paths if self.crops is not None else ():
                self._explain_cropped(path, batch_size, progress)
            for batch in () if self.crops is not None else self._batches(paths, size, progress):
                self._explain_batch(batch, progress)

    def _explain_cropped(self, path: Path, batch_size: int, progress: Any) -> None:
        assert self.crops is not None
        start, target = time.perf_counter(), self.choice.classes[0] if self.choice.classes else None
        try:
            joined = explain_crops(path, self.classifier, self.explainer, self.crops, target, batch_size)
        except (PictureError, TransformError, ViewError, CropError, TargetError) as error:
            self._fail(path, f"{readable(str(path))}: {error}", progress)
            return
        self._note_seconds(time.perf_counter() - start, 1)
        self.results.write_joined(joined)
        self.explained += 1
        errors = [part.conservation.error for part in joined.parts if part.conservation.cuts]
        if errors:
            self.conservation = max(self.conservation or 0.0, *errors)
        progress.update()
        if not self.quiet:
            label, most = self.classifier.labels[joined.target], joined.probabilities[:, joined.target].max()
            words = f"{len(joined.crops.boxes)} crops joined, at most {float(most):.1%} in one"
            with progress.external_write_mode():
                say(f"{readable(str(path))}  {label}  {words}")

    def _note_seconds(self, seconds: float, pictures: int) -> None:
        if self.start_up:
            self.seconds, self.later = self.seconds + seconds, self.later + pictures
        else:
            self.start_up = seconds

    def summary(self) -> str:
        """Say how far the maps can be trusted."""
        rows = {"pictures explained": str(self.explained)}
        if self.conservation is not None:
            rows["conservation error"] = f"{self.conservation:.1e} (worst)"
        if self.oracle is not None:
            found = "not measured: out of memory" if isnan(self.oracle) else f"{self.oracle:.1e}"
            rows["capture verified"] = f"gradients differ from autograd's by {found}"
        if self.start_up:
            each = f", then {self.seconds / self.later:.2g} s a picture" if self.later else ""
            rows["time to explain"] = f"start-up {self.start_up:.1f} s{each}"
        rows["weights"] = self.classifier.origin
        if self.classifier.assumed:
            rows["preprocessing"] = self.classifier.assumed
        rows["index"] = str(self.results.index)
        rows["pictures failed"] = str(self.failed)
        return "\n".join(f"{name:<24}{value}" for name, value in rows.items())

    def _batches(self, paths: Sequence[Path], size: int, progress: Any) -> Iterator[list[InputPicture]]:
        """Read pictures into full batches; report and count those that cannot be read."""
        batch: list[InputPicture] = []
        for path in paths:
            try:
                batch.append(read_input(path, self.classifier))
            except (PictureError, TransformError) as error:
                message = str(error) if isinstance(error, PictureError) else f"{readable(str(path))}: {error}"
                self._fail(path, message, progress)
            if len(batch) > 1 and batch[-1].x.shape != batch[0].x.shape:
                # A transform of one's own may leave pictures their sizes; one batch has one.
                yield batch[:-1]
                batch = batch[-1:]
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _explain_batch(self, batch: Sequence[InputPicture], progress: Any) -> None:
        x = torch.stack([prepared.x for prepared in batch]).to(self.classifier.device)
        start, count, against = time.perf_counter(), self.choice.count, self.explainer.contrast
        target: Tensor | None = None
        if self.choice.classes:
            target = torch.tensor(self.choice.classes).repeat(len(batch))
        elif count > 1 or isinstance(against, int):
            classes = self._most_probable(x)
            if isinstance(against, int):
                apart = (classes != against).all(1)
                batch = self._without_skipped(batch, apart.tolist(), progress)
                x, classes = x[apart], classes[apart]
            if not batch:
                return
            target = classes.flatten()
        explanation = self.explainer(x.repeat_interleave(count, 0), target)
        seconds = time.perf_counter() - start
        LOG.info("%d explanations in %.2f s", len(batch) * count, seconds)
        self._note_seconds(seconds, len(batch))
        if not self.explained:
            self.oracle = self._oracle_error(x[:2], explanation.target)
        for k, prepared in enumerate(batch):
            part = explanation[k * count : (k + 1) * count]
            self.results.write(prepared, part)
            self.explained += 1
            kept, note = part.conservation, "these rules do not conserve relevance"
            if kept.cuts:
                self.conservation = max(self.conservation or 0.0, kept.error)
                note = f"conservation error {kept.error:.1e}"
            if (share := arriving(part)) is not None:
                note += f", {float(share.mean()):.1%} of the output's relevance reaches the picture"
            progress.update()
            if self.quiet:
                continue
            with progress.external_write_mode():
                say(f"{readable(str(prepared.path))}  {', '.join(verdicts(self.classifier, part))}  {note}")

    def _without_skipped(
        self, batch: Sequence[InputPicture], apart: Sequence[bool], progress: Any
    ) -> list[InputPicture]:
        """Return the pictures of other classes than the one they are set against; report and count the others."""
        name = self.classifier.labels[self.explainer.contrast]  # type: ignore[index]
        among = "its class" if self.choice.top == 1 else f"one of its {self.choice.top} most probable classes"
        for prepared, kept in zip(batch, apart, strict=True):
            if not kept:
                message = f"{readable(str(prepared.path))}: {name}, which --contrast names, is {among}"
                self._fail(prepared.path, message, progress)
        return [prepared for prepared, kept in zip(batch, apart, strict=True) if kept]

    def _fail(self, path: Path, message: str, progress: Any) -> None:
        self.failed += 1
        self.results.fail(path, message)
        progress.update()
        with progress.external_write_mode():
            self.tell_failure(message)

    def _oracle_error(self, x: Tensor, classes: Tensor | None) -> float | None:
        """Return the gradient-oracle error, found now or recorded before; None where it never was.

        It is found on pictures ``(B, C, H, W)``, and looked up for their classes, ``(B,)`` or more. It is NaN where the
        copy of the model in float64 does not fit into memory.
        """
        graph = self.explainer.plan(x, None if classes is None else classes[: len(x)]).graph
        if not self.verify:
            return verified_error(graph)
        try:
            with memory_for(len(x)):
                error = gradient_oracle_error(self.classifier.model, x, output=self.classifier.output)
        except OutOfMemoryError:
            return nan
        record_verified(graph, error)
        return error

    def _most_probable(self, x: Tensor) -> Tensor:
        """Return the classes ``(B, top)`` of pictures ``(B, C, H, W)`` to explain, the most probable one first."""
        with torch.inference_mode(), memory_for(len(x)):
            return self._forward(x).topk(self.choice.top, dim=1).indices

    @cached_property
    def _forward(self) -> Callable[[Tensor], Tensor]:
        """From pictures ``(B, C, H, W)`` to the scores of their classes, ``(B, classes)``."""
        return self.classifier.scores
