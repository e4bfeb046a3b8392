"""Collecting reference pictures over a folder; a collection that was interrupted continues where it stopped."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relprop.assign.concepts import ConceptLayer
from relprop.assign.rule_names import as_rule_set
from relprop.concepts.references import References
from relprop.concepts.table import Best
from relprop.errors import RelpropWarning
from relprop.explainer import Explainer
from relprop.explanation.provenance import describe_rules, weights_sha256
from relprop.models import Classifier, PictureError, find_pictures
from relprop.run.progress import no_bars, progress_bar

EVERY = 30.0
"""Seconds of work that are lost at most where a collection is killed."""


def collect_references(
    classifier: Classifier,
    folder: str | PathLike[str],
    layers: str | Sequence[str],
    path: str | PathLike[str],
    *,
    per_channel: int = 8,
    batch: int = 16,
    **options: Any,
) -> References:
    """Find for every channel of some layers the pictures in which it is most relevant for the predicted class.

    The file is written every half a minute, and at the end. A second call goes on where one was broken off, and looks
    at pictures that have come since; where all are done it only reads the file.

    Parameters
    ----------
    classifier : Classifier
        The model, and how pictures are made its input.
    folder : path
        Of the pictures; subfolders are searched too.
    layers : str or sequence of str
        Module paths, or globs of them.
    path : path
        Of the HDF5 file.
    per_channel : int
        So many pictures are kept for each channel.
    batch : int
        So many pictures are explained at once.
    **options
        Of `relprop.Explainer`. The default contrast is None here: relevance of the class alone.

    Returns
    -------
    relprop.concepts.References
        The table, and what draws sheets of it.

    Raises
    ------
    ReferencesError
        If the file was begun with another model, rule set or choice of layers.
    PictureError, OutputError, CaptureError
    """
    if per_channel < 1 or batch < 1:
        raise ValueError(f"per_channel and batch must be at least 1, not {per_channel} and {batch}")
    folder, path = Path(folder), Path(path)
    files = {file.relative_to(folder).as_posix(): file for file in find_pictures(folder)}
    chosen: dict[str, Any] = {"contrast": None, **options}
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    found, concepts = _begin(classifier, chosen, folder, files, patterns, per_channel)
    looking = Explainer(classifier, **{**chosen, "layers": list(found.layers)})
    if path.exists():
        found = found.read(path)
    seen = set(found.pictures)
    left = [name for name in files if name not in seen]
    written = time.monotonic()
    with progress_bar(len(left), "picture") as bar:
        try:
            for start in range(0, len(left), batch):
                some = {name: files[name] for name in left[start : start + batch]}
                found = _with_pictures(found, looking, concepts, some)
                bar.update(min(batch, len(left) - start))
                if time.monotonic() - written > EVERY:
                    found.write(path)
                    written = time.monotonic()
        finally:  # what was done before an error or Ctrl-C is kept
            if left:
                found.write(path)
    return found


def _begin(
    classifier: Classifier,
    options: dict[str, Any],
    folder: Path,
    files: dict[str, Path],
    patterns: tuple[str, ...],
    per_channel: int,
) -> tuple[References, tuple[ConceptLayer, ...]]:
    """Return references of no pictures yet, and the layers, found with the first picture that can be read."""
    explainer = Explainer(classifier, **options)
    x = next(filter(lambda value: value is not None, (_read(classifier, file) for file in files.values())), None)
    if x is None:
        raise PictureError(f"none of the {len(files)} pictures in {folder} can be read")
    prepared = explainer.prepare(explainer.check_inputs(x[None].to(classifier.device)), concepts=patterns)
    layers = {layer.path: Best.nothing(layer.size, per_channel) for layer in prepared.concepts}
    others = {name: repr(value) for name, value in options.items() if name not in ("rules", "batch_size", "compile")}
    config = {
        "layers": sorted(layers),
        "per_channel": per_channel,
        "rules": describe_rules(as_rule_set(explainer.rules)),
        "options": others,
        "weights": weights_sha256(classifier.model),
        "preprocessing": [list(x.shape), list(classifier.mean), list(classifier.std)],
    }
    config = json.loads(json.dumps(config))  # as a file will have it
    none = References(layers, [], np.zeros(0, np.int64), config, folder, classifier, explainer)
    return none, prepared.concepts


def _with_pictures(
    found: References, looking: Explainer, concepts: Sequence[ConceptLayer], files: dict[str, Path]
) -> References:
    """Return the references with further pictures."""
    read = {name: _read(found.classifier, file, warn=True) for name, file in files.items()}
    inputs = {name: x for name, x in read.items() if x is not None}
    target = np.full(len(files), -1, np.int64)
    layers = dict(found.layers)
    if inputs:
        rows = [place for place, name in enumerate(read) if name in inputs]
        x = torch.stack(list(inputs.values())).to(found.classifier.device)
        with no_bars():
            target[rows], shares = _shares(looking, x, concepts)
        for path, share in shares.items():
            every = np.full((len(files), share.shape[1]), np.nan, np.float32)
            every[rows] = share
            layers[path] = layers[path].merged(every, len(found.pictures))
    return replace(
        found, layers=layers, pictures=[*found.pictures, *files], target=np.concatenate([found.target, target])
    )


def _shares(looking: Explainer, x: Tensor, layers: Sequence[ConceptLayer]) -> tuple[Any, dict[str, Any]]:
    """Return the classes predicted, and each channel's share of the relevance at its layer, ``(B, channels)``."""
    e = looking(x)
    assert e.target is not None
    shares = {}
    for layer in layers:
        relevance = e.layers[layer.path]
        assert isinstance(relevance, Tensor)
        apart = relevance.movedim((layer.batch.axis, layer.axis), (0, 1))
        by_channel = apart.reshape(len(x), layer.size, -1).sum(2)
        total = by_channel.abs().sum(1, keepdim=True)
        shares[layer.path] = (by_channel / torch.where(total == 0, 1.0, total)).float().cpu().numpy()
    return e.target.cpu().numpy(), shares


def _read(classifier: Classifier, file: Path, warn: bool = False) -> Tensor | None:
    """Return the model's input of a picture, ``(C, H, W)``; None, with a warning, where it can't be read."""
    try:
        return classifier.transform(classifier.read(file))
    except PictureError as error:
        if warn:
            warnings.warn(f"left out: {error}", RelpropWarning, stacklevel=5)
        return None
