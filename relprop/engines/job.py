"""What all workers of a run evaluate, in a form that reaches them: pickled, or as words to load it by."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from relprop.engines.errors import EngineError
from relprop.engines.worker import Shard
from relprop.errors import first_line
from relprop.evaluation import DataError, Evaluation, evaluate
from relprop.evaluation.data.datasets import Stream, open_source
from relprop.evaluation.data.folders import Listing, PictureFolder, list_pictures
from relprop.models import Classifier, load_classifier
from relprop.models.devices import device_of, find_device, move

Loaded = tuple[Any, Any, Any]
"""Model, data set and methods, as `relprop.evaluate` takes them."""


class Load(Protocol):
    """Loads what is evaluated; it can be sent to other processes."""

    def __call__(self, device: str | None) -> Loaded:
        """Return model, data set and methods; None: the model stays where it is."""

    def listed(self, change: Callable[[Listing], Listing]) -> Load:
        """Return this with the pictures of a folder found now, and changed so; as it is where there is no folder."""


@dataclass(frozen=True)
class Job:
    """What is evaluated, and how.

    Parameters
    ----------
    load : Load
        From a device, or None, to model, data set and methods.
    options : mapping
        Further arguments of `relprop.evaluate`: what numbers depend on, and what is kept.
    quiet : bool
        Whether libraries are kept from talking on standard error.
    """

    load: Load
    options: Mapping[str, Any] = field(default_factory=dict)
    quiet: bool = False

    def begin(self, loaded: Loaded) -> NDArray[np.int64]:
        """Return the indices of the samples that are taken, in their order, ``(N,)``.

        Raises
        ------
        DataError
            The data set has no length.
        """
        model, dataset, _ = loaded
        source = open_source(
            dataset,
            class_names=model.labels if isinstance(model, Classifier) else (),
            identity=self.options.get("data_name"),
            limit=self.options.get("limit"),
            per_class=self.options.get("per_class"),
        )
        if isinstance(source, Stream):
            raise DataError("a data set without a length can't be cut into shards: evaluate it in one process")
        return source.order(self.options.get("seed", 0))

    def run(self, loaded: Loaded, shard: Shard, tell: Callable[[float], None]) -> Evaluation:
        """Evaluate a shard, or what is left of it."""
        part = shard.part, shard.parts
        options = self.options if shard.limit is None else {**self.options, "limit": shard.limit}
        return evaluate(
            *loaded, shard.path, **options, resume=True, shard=part, progress=lambda done, total: tell(done)
        )

    def pickled(self, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
        """Return the job as bytes, which `pickle.loads` understands.

        Raises
        ------
        EngineError
            Something in it can't be sent to another process, naming it.
        """
        parts = {"model, data set and methods": self.load, **self.options}
        if isinstance(self.load, Given):
            del parts["model, data set and methods"]
            parts = {"model": self.load.model, "data set": self.load.dataset, "methods": self.load.methods} | parts
        try:
            return dumps(self)
        except Exception as error:  # each kind of object refuses by an error of its own
            name = next((name for name, part in parts.items() if not _can_be_sent(part, dumps)), "something")
            raise EngineError(
                f"the {name} can't be sent to worker processes ({first_line(error)}). What is defined by name in a "
                "module can: a class, a function, no lambda; models and methods also by their names, pictures as a "
                "folder"
            ) from error


@dataclass(frozen=True)
class Given:
    """Objects that were given to `relprop.engines.evaluate`; a worker's copy goes to its device."""

    model: Any
    dataset: Any
    methods: Any

    def __call__(self, device: str | None) -> Loaded:
        """Return model, data set and methods."""
        model = self.model
        if isinstance(model, str | PathLike):
            return load_classifier(model, device=device), self.dataset, self.methods
        held = model.model if isinstance(model, Classifier) else model
        if device is not None and isinstance(held, nn.Module | ExportedProgram):
            place = find_device(device)
            if device_of(held) != place:
                move(held, place)  # it is this worker's own
        return model, self.dataset, self.methods

    def listed(self, change: Callable[[Listing], Listing]) -> Given:
        """Do `Load.listed`."""
        if isinstance(self.dataset, PictureFolder):
            folder = copy(self.dataset)  # the user's own stays as it is
            folder.listing = change(folder.listing)
            return replace(self, dataset=folder)
        if isinstance(self.dataset, str | PathLike):
            return replace(self, dataset=change(list_pictures(self.dataset)))
        return self


def _can_be_sent(value: Any, dumps: Callable[[Any], bytes]) -> bool:
    try:
        dumps(value)
    except Exception:  # as above
        return False
    return True
