"""`evaluate`: score attribution methods over a data set of any size, into a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from relprop.errors import InputError
from relprop.evaluation.metrics import CustomMetric
from relprop.evaluation.once import evaluate_once
from relprop.evaluation.pipeline.progress import Progress
from relprop.evaluation.report import Evaluation
from relprop.evaluation.settings import TargetKind
from relprop.evaluation.stopping import Judge, check_stop, evaluate_until
from relprop.gae.masking import Baseline
from relprop.gae.procedures import ProtocolName
from relprop.models.preprocessing import Picture


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
    stop_when: str | None = None,
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
    stop_when : str, optional
        End early: ``"gae ±0.01"`` (or ``+-``) where the 95 % interval of each method's mean GAE, as
        `Results.summary` gives it, has that half width at most. It is judged after 100, 200, ... samples of the seeded
        order, on these alone, so that each engine stops at the same one. The file equals that of this ``limit``, says
        why it ends there, and can be extended.

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
    if resume and overwrite:
        raise InputError("pass <resume> or <overwrite>, not both", resume="True", overwrite="True")
    path = Path(path)
    once = partial(
        evaluate_once,
        model,
        dataset,
        methods,
        path,
        seed=seed,
        unit=unit,
        batch_size=batch_size,
        baseline=baseline,
        target=target,
        protocol=protocol,
        metrics=metrics,
        relevance=relevance,
        compression=compression,
        shard=shard,
        retry=retry,
        fail_fast=fail_fast,
        progress=progress,
        device=device,
        workers=workers,
        per_class=per_class,
        transform=transform,
        data_name=data_name,
        log=log,
    )
    if stop_when is None:
        return once(resume=resume, overwrite=overwrite, limit=limit)
    rule = check_stop(stop_when, {"shard": shard, "per_class": per_class, "metrics": metrics})

    def run(judge: Judge) -> Evaluation:
        again = judge.after > 0
        found = once(resume=resume or again, overwrite=overwrite and not again, limit=limit, judge=judge)
        if judge.met is not None and judge.met < found.samples:
            judge.cut(path, path, unit)
            return replace(found, complete=False)
        return found

    return evaluate_until(rule, path, resume, run, lambda count: once(resume=True, overwrite=False, limit=count))
