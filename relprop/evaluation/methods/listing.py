"""The methods that have a name, with their options, as ``relprop methods`` lists them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import rule_registry
from relprop.errors import near_names
from relprop.evaluation.methods.adapters.captum import captum_methods, captum_options
from relprop.evaluation.methods.adapters.grad_cam import GRAD_CAM_OPTIONS, grad_cam_methods
from relprop.evaluation.methods.adapters.zennit import zennit_composites
from relprop.evaluation.methods.base import MethodError
from relprop.evaluation.methods.controls import CONTROLS
from relprop.evaluation.methods.named import NAMED
from relprop.extras import MissingExtraError


@dataclass(frozen=True)
class ListedMethod:
    """A method that has a name.

    Parameters
    ----------
    name : str
        As `relprop.evaluate` takes it.
    kind : str
        Under which it is listed.
    options : tuple of str
        What may follow its name, with defaults where there are.
    summary : str
        What it is, where its name does not say it.
    """

    name: str
    kind: str
    options: tuple[str, ...] = ()
    summary: str = ""


def list_methods(pattern: str = "*") -> list[ListedMethod]:
    """List the methods whose name matches a pattern, or holds it.

    Raises
    ------
    MethodError
        If there is none.
    """
    listed = [*_rule_sets(), *_named()]
    for kind, find in _LIBRARIES.items():
        try:
            listed += [ListedMethod(f"{kind}.{name}", kind, options) for name, options in find()]
        except MissingExtraError as error:
            listed.append(ListedMethod(f"{kind}.METHOD", kind, summary=str(error)))
    wanted = pattern.casefold() if set("*?[") & set(pattern) else f"*{pattern.casefold()}*"
    found = [method for method in listed if fnmatchcase(method.name.casefold(), wanted)]
    if not found:
        near = near_names(pattern, [method.name for method in listed])
        raise MethodError(f"no method matches {pattern!r}{near}; relprop methods lists all")
    return found


def _rule_sets() -> Iterable[ListedMethod]:
    for name in rule_registry.names():
        rules = rule_registry.get(name)
        described = rules.describe_parameters()
        yield ListedMethod(name, "rule sets of relprop", (described,) if described else (), rules.summary)


def _named() -> Iterable[ListedMethod]:
    for name, method in NAMED.items():
        options = tuple(f"{option}={value}" for option, value in method.options.items())
        yield ListedMethod(name, "controls" if name in CONTROLS else "others", options, method.summary)


def _captum() -> Iterable[tuple[str, tuple[str, ...]]]:
    return ((name, tuple(captum_options(kind))) for name, kind in sorted(captum_methods().items()))


def _grad_cam() -> Iterable[tuple[str, tuple[str, ...]]]:
    return ((name, GRAD_CAM_OPTIONS) for name in sorted(grad_cam_methods()))


def _zennit() -> Iterable[tuple[str, tuple[str, ...]]]:
    for name, kind in sorted(zennit_composites().items()):
        made: Mapping[str, Any] = inspect.signature(kind.__init__).parameters
        own = [key for key in made if key not in ("self", "canonizers", "layer_map", "name_map", "module_map")]
        yield name, (*own, "canonizer")


_LIBRARIES: dict[str, Callable[[], Iterable[tuple[str, tuple[str, ...]]]]] = {
    "captum": _captum,
    "grad-cam": _grad_cam,
    "zennit": _zennit,
}
