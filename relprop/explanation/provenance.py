"""What made a map: rule set, versions of the software, and the model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.versions import versions
from rule_registry import RuleSet

CHUNK = 1 << 22
"""Entries that are hashed at once."""


def describe_rules(rules: RuleSet) -> dict[str, Any]:
    """Return name, version and parameters of a rule set, and what was changed in it, as JSON can say it."""
    return {
        "rules": rules.name,
        "rule_set_version": rules.version,
        "parameters": {name: list(v) if isinstance(v, tuple) else v for name, v in rules.parameters.items()},
        "overrides": [f"{where}: {rule.describe()}" for where, rule in rules.overrides],
        "default": None if rules.default is None else rules.default.describe(),
    }


def weights_sha256(model: Any) -> str | None:
    """Return a hash of all weights and buffers, by name; None for what has none.

    Tensors are hashed in pieces: no copy of the model is made.
    """
    state = state_of_model(model)
    if state is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\n".encode())
        flat = value.detach().reshape(-1)
        for start in range(0, flat.numel(), CHUNK):
            piece = flat[start : start + CHUNK].contiguous().cpu()
            digest.update(piece.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_of_model(model: Any) -> Mapping[str, Any] | None:
    """Return the weights and buffers of a module or an exported program by name; None for anything else."""
    if isinstance(model, nn.Module):
        return model.state_dict()
    return model.state_dict if isinstance(model, ExportedProgram) else None


class Weights:
    """The weights of a model at a moment, hashed when somebody asks: that takes as long as reading them all.

    It does not keep the model. Once that is gone, or a weight was written to, the hash can't be made any more.
    """

    def __init__(self, model: nn.Module | ExportedProgram) -> None:
        self._model = ref(model)
        self._marks = tuple(_marks(model))

    @property
    def sha256(self) -> str | None:
        """The hash, see `weights_sha256`; None where it can't be made any more."""
        model = self._model()
        if model is None or tuple(_marks(model)) != self._marks:
            return None
        marks, found = _hashes.get(model, (None, None))
        if marks != self._marks:
            found = weights_sha256(model)
            _hashes[model] = self._marks, found
        return found


_hashes: WeakKeyDictionary[Any, tuple[Any, str | None]] = WeakKeyDictionary()


def _marks(model: nn.Module | ExportedProgram) -> Iterator[tuple[int, int]]:
    """Yield what changes of a tensor when it is replaced or written to (but through ``.data``)."""
    for value in chain(model.parameters(), model.buffers()):
        yield id(value), 0 if value.is_inference() else value._version


@dataclass(frozen=True, eq=False)
class Provenance:
    """What a map was made by.

    Parameters
    ----------
    rules : mapping
        Name, version, parameters and changes of the rule set, see `describe_rules`.
    weights : Weights
        Those of the model.
    """

    rules: Mapping[str, Any]
    weights: Weights | str | None

    @staticmethod
    def of(model: nn.Module | ExportedProgram, rules: RuleSet) -> Provenance:
        """Note what a map is made by, at the moment when it is made."""
        return Provenance(describe_rules(rules), Weights(model))

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can say it; ``weights_sha256`` is None where it can't be made any more."""
        weights = self.weights.sha256 if isinstance(self.weights, Weights) else self.weights
        return {"rule_set": dict(self.rules), "versions": versions(), "weights_sha256": weights}

    def __getstate__(self) -> dict[str, Any]:
        """Return what can be pickled: the hash in place of what makes it."""
        return {"rules": dict(self.rules), "weights": self.as_dict()["weights_sha256"]}
