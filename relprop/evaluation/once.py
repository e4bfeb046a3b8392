"""One pass over a data set: what `evaluate` does where nothing is to stop it before the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from relprop.errors import InputError, RelpropError
from relprop.evaluation.data.datasets import Source, open_source
from relprop.evaluation.data.samples import DataError, Reader
from relprop.evaluation.data.units import check_shard
from relprop.evaluation.methods import Method, MethodContext, make_methods
from relprop.evaluation.metrics import CustomMetric, Metrics
from relprop.evaluation.pipeline.feeds import open_feed
from relprop.evaluation.pipeline.interrupts import delayed_interrupts
from relprop.evaluation.pipeline.progress import Progress, shown
from relprop.evaluation.pipeline.resuming import require_same_outputs
from relprop.evaluation.pipeline.run_file import open_run_file, report_of
from relprop.evaluation.pipeline.runner import Run
from relprop.evaluation.pipeline.standing import stand_of
from relprop.evaluation.report import Evaluation, failed_rows
from relprop.evaluation.seeding import same_kernels
from relprop.evaluation.settings import Settings, TargetKind, stored_maps
from relprop.evaluation.stopping import Judge
from relprop.evaluation.subject import count_classes, prepare_model
from relprop.gae.checks import check_size
from relprop.gae.masking import Baseline
from relprop.gae.procedures import ProtocolName
from relprop.models.preprocessing import Picture
from relprop.run.progress import no_bars
from relprop.store import Layout, State, name_length, read_format
from relprop.store import Method as StoredMethod
from relprop.store.schema import FIRST_EXTENSIBLE


def evaluate_once(
    model: Any,
    dataset: Any,
    methods: Any,
    path: Path,
    *,
    seed: int,
    unit: int,
    batch_size: int,
    baseline: Baseline,
    target: TargetKind,
    protocol: ProtocolName,
    metrics: Sequence[str] | Mapping[str, CustomMetric | None],
    relevance: bool | str,
    compression: str | None,
    shard: tuple[int, int],
    resume: bool,
    overwrite: bool,
    retry: bool,
    fail_fast: bool,
    progress: Progress | bool,
    device: str | None,
    workers: int,
    limit: int | None,
    per_class: int | None,
    transform: Callable[[Picture], torch.Tensor] | None,
    data_name: str | None,
    log: str | PathLike[str] | None,
    judge: Judge | None = None,
) -> Evaluation:
    """Evaluate, as `relprop.evaluate` says, until there are no more samples or the judge says to stop."""
    start = time.perf_counter()
    maps = stored_maps(relevance)
    settings = Settings(
        seed=seed,
        unit=unit,
        batch_size=batch_size,
        baseline=baseline,
        target=target,
        shard=check_shard(shard),
        protocol=protocol,
    )
    chosen = Metrics(metrics)
    subject = prepare_model(model, transform=transform, device=device)
    older = resume and path.exists() and read_format(path) < FIRST_EXTENSIBLE
    source = open_source(
        dataset,
        class_names=subject.class_names,
        identity=data_name,
        limit=limit,
        per_class=per_class,
        older=older,
    )
    if judge is not None and (older or not isinstance(source, Source)):
        what = "files of format 1 have another" if older else "a data set without a length has none"
        raise InputError(
            f"stop_when is judged by the first samples of the seeded order, and {what}: pass a <limit>", limit="100"
        )
    made = make_methods(methods, MethodContext(subject.given, seed, subject.classifier))
    reader = Reader(subject.transform, subject.dtype, chosen.need_masks, seed=seed)
    if settings.needs_labels and isinstance(source, Source) and not source.labelled:
        raise DataError(
            'no sample has a label, which target="label" and protocol="released" need: give (picture, label), a folder '
            "for each class or a table of labels"
        )
    feed = open_feed(source, reader, settings, workers)
    shape = tuple(feed.first.shape[1:])
    check_size(shape[1:])
    settings.procedure.check(shape, baseline)
    with same_kernels(subject.device), delayed_interrupts() as interruption:
        classes = count_classes(subject, feed.first)
        for name, method in made.items():
            _prepare(name, method, feed.first[:2].to(subject.device))
        layout = Layout(
            size=(shape[1], shape[2]),
            classes=classes,
            class_names=subject.class_names,
            channels=shape[0],
            elements=settings.procedure.elements,
            precision="float64" if subject.dtype == torch.float64 else "float32",
            compression=compression,  # type: ignore[arg-type]
            name_length=name_length(source.names if isinstance(source, Source) else ()),
        )
        stored = [
            StoredMethod(name, method.config, method.description, chosen.declared, maps)
            for name, method in made.items()
        ]
        with open_run_file(
            path,
            config=settings.config(subject, source, shape),
            layout=layout,
            feed=feed,
            methods=stored,
            device=subject.device,
            pictures=source.folder if isinstance(source, Source) else None,
            resume=resume,
            overwrite=overwrite,
        ) as writer:
            if resume:
                require_same_outputs(path, writer, subject, feed.reserve)
            states = {"": writer.sample_states()} | {name: writer.method_states(name) for name in made}
            if retry:
                for name in made:
                    states[name][failed_rows(states[name], states[""])] = State.ABSENT
            standing = stand_of(writer, states)
            with shown(progress, standing, None if log is None else Path(log)) as bar, no_bars():
                run = Run(
                    subject=subject,
                    methods=made,
                    metrics=chosen,
                    settings=settings,
                    classes=classes,
                    fail_fast=fail_fast,
                    writer=writer,
                    states=states,
                    interruption=interruption,
                    standing=standing,
                    progress=bar,
                    judge=judge,
                    order=feed.order,
                )
                units, before = feed.units(run.needs_work)
                run.work(units, feed.reserve, before, feed.count)
            return report_of(path, writer, run, time.perf_counter() - start)


def _prepare(name: str, method: Method, x: torch.Tensor) -> None:
    """Let a method prepare for pictures ``(B, C, H, W)``; its errors name it."""
    try:
        method.prepare(x)
    except RelpropError as error:
        raise type(error)(f"method {name}: {error}") from error
