"""Graphs in the cache folder: found by all they depend on, read if they are whole, and kept if that can be done.

A cache never makes an error and never a wrong graph. What can't be read or written is as if it were not there, and a
graph that is read has to compute what the model computes before it is used.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch._ops import OpOverload

from relprop.files import written_whole
from relprop.graph.graph import Graph
from relprop.tracing.disk.folder import RECORD, SUFFIX, folder, shrink
from relprop.tracing.disk.graph_reading import read_graph
from relprop.tracing.disk.graph_writing import NotWritableError, write_graph
from relprop.tracing.disk.identity import describe_model, describe_software
from relprop.tracing.disk.operations import operation_named
from relprop.tracing.inputs import Inputs
from relprop.tracing.reach import reach

_LARGEST = 256 << 20
"""Bytes of one entry's text: a file that holds more is none of ours."""
_FORMAT = 1
_keys: WeakKeyDictionary[Graph, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class CacheEntry:
    """The file for the graph of one model and inputs of one kind, whether it is there or not.

    Parameters
    ----------
    file : Path
        The file.
    key : str
        All that the graph depends on, as JSON.
    held : sequence of Tensor
        What the model holds, of any shapes.
    """

    file: Path
    key: str
    held: Sequence[Tensor]

    @staticmethod
    def of(
        model: nn.Module, inputs: Inputs, output: str | int | None, keep: frozenset[OpOverload]
    ) -> CacheEntry | None:
        """Find the place for a capture; None without a cache, or where the model has no description that lasts."""
        where = folder()
        if where is None:
            return None
        held = reach(model).tensors
        try:
            parts = [_FORMAT, describe_software(), describe_model(model, held), inputs.signature(), output]
            key = json.dumps([*parts, sorted(map(str, keep))], default=str)
        except (NotWritableError, OSError, ValueError, RecursionError):
            return None
        digest = hashlib.sha256(key.encode()).hexdigest()
        return CacheEntry(where / f"{digest[:40]}{SUFFIX}", key, held)

    def read(self) -> tuple[Graph, frozenset[OpOverload]] | None:
        """Return the graph, and the composite operations that were met on the way; None if there is none."""
        content = self._content()
        if content is None:
            return None
        try:
            graph = read_graph(content["graph"], self.held)
            composites = frozenset(map(operation_named, content["composites"]))
        except Exception:  # whatever the text of a damaged or foreign file leads to: it is none
            return None
        with suppress(OSError):
            os.utime(self.file)
        self.mark(graph)
        return graph, composites

    def write(self, graph: Graph, composites: frozenset[OpOverload]) -> None:
        """Keep a graph, if that can be done."""
        self.mark(graph)
        with suppress(NotWritableError, OSError):
            content = {
                "graph": write_graph(graph, self.held),
                "composites": sorted(operation.name() for operation in composites),
            }
            self._put(content)

    def mark(self, graph: Graph) -> None:
        """Remember where a graph comes from."""
        _keys[graph] = str(self.file)

    def _content(self) -> dict[str, Any] | None:
        try:
            if hasattr(os, "getuid") and self.file.stat().st_uid != os.getuid():
                return None
            with gzip.open(self.file) as file:
                text = file.read(_LARGEST + 1)
            content = json.loads(text) if len(text) <= _LARGEST else None
        except (OSError, EOFError, ValueError, zlib.error, RecursionError):
            return None
        return content if isinstance(content, dict) and content.get("key") == self.key else None

    def _put(self, content: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = gzip.compress(json.dumps({"key": self.key, **content}).encode(), 6)
        with written_whole(self.file) as part:
            part.write_bytes(data)
        shrink(self.file.parent)


def verified_error(graph: Graph) -> float | None:
    """Return the gradient-oracle error that was recorded for this graph, in this process or another, or None."""
    if graph not in _keys:
        return None
    try:
        return float(json.loads(_record(graph).read_text(encoding="utf-8"))["oracle_error"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record_verified(graph: Graph, error: float) -> None:
    """Record that the gradients of a graph's program were compared with autograd's, and by how much they differed."""
    if graph in _keys:
        with suppress(OSError), written_whole(_record(graph)) as part:
            part.write_text(json.dumps({"oracle_error": error}), encoding="utf-8")


def _record(graph: Graph) -> Path:
    return Path(_keys[graph]).with_suffix(RECORD)
