"""Shell completion of values, without importing PyTorch but for methods of other libraries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from relprop.cli.early import BUILT_IN

CONTRASTS = ("rest", "log-odds", "none")
LIBRARIES = ("captum.", "grad-cam.", "zennit.")
"""What the names of other libraries' methods begin with; these are found by importing the library."""
OTHERS = ("random", "constant", "centre", "attention-rollout", "maps:path=")


def complete_rules(incomplete: str) -> list[str]:
    """Return the rule sets that a word may become."""
    return _starting(incomplete, BUILT_IN)


def complete_contrast(incomplete: str) -> list[str]:
    """Return the contrasts that have a name."""
    return _starting(incomplete, CONTRASTS)


def complete_model(incomplete: str) -> list[str]:
    """Return the models of timm and torchvision that a word may become."""
    return _starting(incomplete, model_names())


def complete_method(incomplete: str) -> list[str]:
    """Return the methods that the last name of a list may become."""
    before, comma, last = incomplete.rpartition(",")
    names = [*BUILT_IN, *OTHERS, *LIBRARIES]
    if last.startswith(LIBRARIES):
        from relprop.evaluation.methods import list_methods

        names = [method.name for method in list_methods("*")]
    return [before + comma + name for name in _starting(last, names)]


@cache
def model_names() -> tuple[str, ...]:
    """Return the architectures that timm and torchvision register, read in their source."""
    found = set(_named_in("timm.models", r"^@register_model\s+def (\w+)\("))
    found |= set(_named_in("torchvision.models", r"^@register_model\(\)\s+(?:@.*\s+)*?def (\w+)\("))
    return tuple(sorted(found))


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _named_in(module: str, pattern: str) -> Iterator[str]:
    """Yield what a pattern finds in the source of a module, or of all modules of a package; nothing without it."""
    for path in _sources(module):
        yield from re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)


def _sources(module: str) -> list[Path]:
    package, *parts = module.split(".")
    spec = find_spec(package)  # of a submodule the package would be imported
    if spec is None or spec.origin is None:
        return []
    place = Path(spec.origin).parent.joinpath(*parts)
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
