"""`evaluate`: score attribution methods over a data set of any size, into a file."""

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
from relprop.evaluation.subject import count_classes, prepare_model
from relprop.gae.checks import check_size
from relprop.gae.masking import Baseline
from relprop.gae.procedures import ProtocolName
from relprop.models.preprocessing import Picture
from relprop.run.progress import no_bars
from relprop.store import Layout, State, name_length, read_format
from relprop.store import Method as StoredMethod
from relprop.store.schema import FIRST_EXTENSIBLE


def evaluate(
    model: Any,
    dataset: Any,
    methods: Any,
    path: str | PathLike[str],
    *,
    seed: int = 0,
    unit: int = 2,
    batch_size: int = 32,
    baseline: Baseline = 0.0,
    target: TargetKind = "prediction",
    protocol: ProtocolName = "gae",
    metrics: Sequence[str] | Mapping[str, CustomMetric | None] = (),
    relevance: bool | str = False,
    compression: str | None = "gzip",
    shard: tuple[int, int] = (0, 1),
    resume: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    fail_fast: bool = False,
    progress: Progress | bool = True,
    device: str | None = None,
    workers: int = 0,
    limit: int | None = None,
    per_class: int | None = None,
    transform: Callable[[Picture], torch.Tensor] | None = None,
    data_name: str | None = None,
    log: str | PathLike[str] | None = None,
) -> Evaluation:
    """Score attribution methods with GAE over a data set, and write masks and scores to HDF5 as they come.

    The masking run is done once per sample and shared by all methods. Memory does not grow with the data set. What is
    committed survives whatever becomes of the process; ``resume=True`` goes on, also with further methods.

    Parameters
    ----------
    model : nn.Module, ExportedProgram, Classifier, str or callable
        In evaluation mode; a name is one of `relprop.models.load_classifier`. It is never changed.
    dataset
        A folder of pictures, see `PictureFolder`; an array or tensor of pictures ``(N, C, H, W)``, or a pair of one
        with its labels; anything with a length and items, as PyTorch's and Hugging Face's data sets; or any iterable.
        An item is a picture, ``(picture, label)``, ``(picture, label, mask)``, or a mapping with ``image`` and perhaps
        ``label`` and ``mask``. Float tensors are taken as normalised ``(C, H, W)``; files, PIL pictures and uint8
        arrays go through the transform. A sample that can't be read is marked as failed.
    methods : mapping, sequence or str
        By name: callables ``(x, target) -> relevance`` of shape ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``;
        `relprop.Explainer`, rule sets and their names; names of other methods, as ``"captum.IntegratedGradients"``,
        ``"grad-cam.GradCAM"``, ``"zennit.EpsilonPlus"``, ``"attention-rollout"``; the controls ``"random"``,
        ``"constant"`` and ``"centre"``; ``"maps:path=FILE"`` for maps computed before. A text may hold several,
        separated by commas; options follow a colon: ``"captum.IntegratedGradients:n_steps=8"``.
    path : path
        Of the HDF5 file, see `relprop.store.schema`.
    seed : int
        Mosaics, controls and stochastic methods follow from it.
    unit : int
        Mosaics per unit of work, each of four samples. Another one gives the same scores up to rounding, and the same
        bits only with the same one.
    batch_size : int
        Pictures in each call of a method; each sample has 20 maps.
    baseline : float, sequence of float or Tensor
        Colour of masked pixels, as `relprop.gae.masking_run`.
    target : {"prediction", "label"}
        Which class is explained.
    protocol : {"gae", "released"}
        The definition, or what the authors' code does, for comparison with their numbers: single elements are masked,
        with zero; mosaics are of every other pixel, rated by the data set's labels, and need an even size; scores of
        mosaics have no bound. Each of the four is in turn the positive, where their code draws one.
    metrics : sequence or mapping
        Scores beside GAE: ``"deletion"``, ``"insertion"``, ``"srg"``, and of data sets with masks of objects
        ``"pointing_game"`` and ``"energy_inside"``; in a mapping, names -> ``(model, x, relevance, target) -> (B,)``.
    relevance : {False, "map", "channels"}
        Whether maps of the pictures are kept, in float16: channels summed, or all. True is ``"map"``, None is False.
    compression : {"gzip", "zstd", None}
        Of what is large in the file.
    shard : tuple of int
        ``(i, n)``: do part i of n, counted from 0, in a file of its own; see `relprop.store.merge`.
    resume : bool
        Go on where there is a file of the same configuration already, with further samples where ``limit`` is larger;
        begin one where there is none.
    overwrite : bool
        Replace a file that is there.
    retry : bool
        In resuming do again what methods failed on.
    fail_fast : bool
        Stop at the first failure of a method, in place of marking the sample as failed.
    progress : bool or callable
        Whether a bar is shown, where a terminal or a notebook is there to show it; or a function that is called with
        the samples worked off so far and the number of all, None of a stream.
    device : str, optional
        Where to compute; by default where the model is.
    workers : int
        Processes that read pictures beside the model. None: this one does.
    limit : int, optional
        Take so many samples alone, the first of the order that follows from the seed, or of a stream. Resumed with a
        larger one, or none, a run is extended: it then equals, bit for bit, the one that had this limit at once.
    per_class : int, optional
        Take so many samples of each class alone, the first of that order. Such a run can't be extended.
    transform : callable, optional
        From a PIL picture or a uint8 array to the model's input, where the model does not bring it.
    data_name : str, optional
        What identifies the data set in the file, in place of its own properties.
    log : path, optional
        A file that gets a line of JSON a minute, and one in the end: samples done, failed, a second, seconds left, and
        the mean GAE of each method with its interval. Without a terminal standard error gets such lines for people.

    Returns
    -------
    Evaluation
        What became of the samples, and seconds by phase. `relprop.Results` reads the scores.

    Raises
    ------
    DataError, MethodError, MetricError, InputError
        Something can't be evaluated.
    ConfigurationError
        The file was begun with another configuration, naming what differs; or with other pictures or another model.
    OutputError, BusyError, FormatError
        The file can't be written; it exists and shall neither be resumed nor overwritten; another process has it open.
    MethodFailureError
        With ``fail_fast``, a method failed.
    KeyboardInterrupt
        SIGINT or SIGTERM arrived; what was computed is committed. Of SIGTERM it is a `Terminated`.

    Examples
    --------
    >>> import tempfile, torch, relprop
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                             torch.nn.Linear(288, 5)).eval()
    >>> pictures = torch.randn(8, 3, 8, 8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = relprop.evaluate(model, pictures, "abslrp,random", f"{folder}/run.h5")
    >>> found.samples, found.complete, list(found.methods)
    (8, True, ['abslrp', 'random'])
    """
    start = time.perf_counter()
    if resume and overwrite:
        raise InputError("pass <resume> or <overwrite>, not both", resume="True", overwrite="True")
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
    path = Path(path)
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
