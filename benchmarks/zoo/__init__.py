"""Models to explain, one module for each source: all of them as one list, and a choice by source and name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from benchmarks.zoo import ecosystem, timm_models
from benchmarks.zoo.entries import Entry


def zoo(everything: bool = False) -> list[Entry]:
    """Return the models of all sources: of timm the smallest of each family, or every architecture; all others."""
    return [*(timm_models.families_first() if everything else timm_models.families()), *ecosystem.entries()]


def choose(entries: Sequence[Entry], sources: Collection[str] | None = None, glob: str = "*") -> list[Entry]:
    """Return those of some sources whose names match a glob."""
    return [
        entry for entry in entries if (sources is None or entry.source in sources) and fnmatchcase(entry.name, glob)
    ]
