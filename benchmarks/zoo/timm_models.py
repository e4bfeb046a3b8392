"""timm's architectures: the smallest member of each of its model modules, and every name there is, small to large."""

from __future__ import annotations

import csv
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.zoo.entries import Entry, Subject
from benchmarks.zoo.weights import settle

PARAMETERS = Path(__file__).with_name("timm_parameters.csv")
"""How many parameters each architecture has. Those of other names are counted when they are needed."""

INPUT_SIZES = {"sam2_hiera_tiny": 256, "gemma4_vit_167m": 384, "qwen3_vit_88m": 384, "deepseek_vit_412m": 224}
"""Side of the pictures, where an architecture's own would make it too large for the sweep and it takes others."""


def families() -> list[Entry]:
    """Return the member with the fewest parameters of each model module, small to large; timm's test models apart."""
    smallest: dict[str, Entry] = {}
    for entry in all_models():
        if not entry.name.startswith("test_"):
            smallest.setdefault(entry.family, entry)
    return list(smallest.values())


def all_models() -> list[Entry]:
    """Return every architecture that is not a deprecated name of another, small to large."""
    modules = {name: module for module in timm.list_modules() for name in timm.list_models(module=module)}
    names = sorted(modules, key=lambda name: (parameters(name), name))
    return [Entry("timm", name, modules[name], partial(build, name)) for name in names]


def families_first() -> list[Entry]:
    """Return every architecture, each family's smallest in front of all others."""
    chosen = {entry.name for entry in families()}
    return sorted(all_models(), key=lambda entry: entry.name not in chosen)


def build(name: str, samples: int) -> Subject:
    """Make an architecture with random, settled weights and pictures of noise, at its own size unless told here."""
    size = INPUT_SIZES.get(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = timm.create_model(name)
    shape = model.default_cfg["input_size"] if size is None else (3, size, size)
    x = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(1))
    return Subject(settle(model, x), x)


@cache
def parameters(name: str) -> int:
    """Return how many parameters an architecture has."""
    return recorded_parameters().get(name) or count(name)


@cache
def recorded_parameters() -> dict[str, int]:
    """Read the numbers that were counted before."""
    with PARAMETERS.open(newline="") as file:
        return {row["name"]: int(row["parameters"]) for row in csv.DictReader(file)}


def count(name: str) -> int:
    """Count an architecture's parameters without making any."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())
