"""Relevance at the modules asked for, by their paths; one that was not asked for says how to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from torch import Tensor

from relprop.errors import RelpropError


class UnknownLayerError(RelpropError, KeyError):
    """There is no relevance of a layer of that name."""

    __str__ = Exception.__str__  # a KeyError shows its message as a literal


class Layers(dict[str, Tensor | list[Tensor]]):
    """Relevance by module path."""

    def __missing__(self, path: str) -> NoReturn:
        raise unknown_layer(path, self)


def unknown_layer(name: str, known: Iterable[str]) -> UnknownLayerError:
    """Say which layers there are, and how to ask for others."""
    there = ", ".join(known)
    rest = f"there are {there}; name others" if there else "name it"
    return UnknownLayerError(f"no relevance of a layer {name!r}: {rest} in layers=[...] of relprop.explain")
