"""Models of one's own: functions that make a model, and what comes out of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from relprop.errors import first_line, near_names
from relprop.models.answers import count_classes, fit_channels
from relprop.models.classifier import Classifier, Loaded, ModelError, UnknownModelError
from relprop.models.devices import move
from relprop.models.loaders.exported import inspect_program
from relprop.models.loaders.weights import WeightsError, load_weights
from relprop.models.preprocessing import PictureTransform, Preprocessing, bands_of, blank_picture, from_module

Made = nn.Module | ExportedProgram | Classifier
"""What a function may return."""

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FUNCTION = re.compile(rf"(?P<module>{_NAME}|.*\.py):(?P<function>{_NAME})")


def is_function(name: str) -> bool:
    """Whether a model's name is a ``package.module:function``, or a ``FILE.py:function``."""
    return _FUNCTION.fullmatch(name) is not None or name.endswith(".py")


def load_own(
    name: str,
    weights: Path | None,
    chosen: Preprocessing | None,
    place: torch.device | None = None,
    output: str | None = None,
) -> Loaded:
    """Call a function, see `call_function`, for a model, give it its weights, and try it where it is to run.

    Raises
    ------
    UnknownModelError
        There is no such module, or nothing of that name in it.
    ModelError
        Importing or calling it fails, or it returns no model.
    WeightsError
        The weights don't fit it, or it is an exported program, which has its own.
    """
    made = call_function(name)
    origin, labels = f"function {name}", None
    model: nn.Module | ExportedProgram
    if isinstance(made, Classifier):
        chosen = chosen or _for_arrays(made)
        name, model, origin, labels = made.name, made.model, made.origin, made.labels or None
    else:
        model = made
    if isinstance(model, ExportedProgram):
        if weights is not None:
            raise WeightsError(f"{name} is an exported program with its own weights: leave out --weights {weights}")
        return replace(inspect_program(name, model, chosen, origin, output), labels=labels)
    try:
        model.eval()
    except Exception as error:  # a module taken out of an exported program refuses
        raise ModelError(f"{name} can't be put in evaluation mode: {first_line(error)}") from error
    if weights is not None:
        load_weights(model, weights, name)
        origin = f"file {weights}"
    if place is not None:
        move(model, place)
    if chosen is not None and isinstance(made, Classifier):
        return Loaded(name, model, chosen, origin, count_classes(name, model, chosen, output), labels)
    preprocessing, classes = fit_channels(name, model, chosen or from_module(model), output)
    return Loaded(name, model, preprocessing, origin, classes, labels)


def call_function(name: str) -> Made:
    """Import ``package.module:function``, or ``FILE.py:function``, and call the function without arguments.

    The current directory is searched first, as by ``python -m``, while the function runs; a file elsewhere is imported
    from the folder that holds it, or its package. What stands after the colon may also be a class, or a model itself.

    Raises
    ------
    UnknownModelError
        There is no such module, or nothing of that name in it.
    ModelError
        Importing or calling it fails, or it returns no model.
    """
    parts = _FUNCTION.fullmatch(name)
    module, path = (parts["module"], parts["function"]) if parts else (name, "")
    file = Path(module) if module.endswith(".py") else None
    with _searched(Path.cwd(), *([] if file is None else [_root(file)])):
        found: Any = _import(module) if file is None else _import_file(file)
        if not path:
            made = ", ".join(f"{name}:{key}" for key in _defined(found))
            raise UnknownModelError(f"{name}: say which of its functions makes the model, {made or f'{name}:FUNCTION'}")
        for part in path.split("."):
            if not hasattr(found, part):
                choices = [key for key in dir(found) if not key.startswith("_") and callable(getattr(found, key, None))]
                raise UnknownModelError(f"{module} has no function {path}{near_names(part, choices)}")
            found = getattr(found, part)
        if not isinstance(found, Made):
            try:
                found = found()
            except (Exception, SystemExit) as error:  # whatever the function raises
                raise ModelError(f"{name} fails: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(found, Made):
        raise ModelError(
            f"{name} returns a {type(found).__name__}: it must be an nn.Module, an ExportedProgram or a "
            "relprop.models.Classifier"
        )
    return found


def _for_arrays(classifier: Classifier) -> Preprocessing:
    """Return a classifier's preprocessing, wrapped if it takes PIL pictures alone."""
    own = classifier.preprocessing
    try:
        own.transform(blank_picture(bands_of(own.transform)))
    except Exception:  # whatever a transform raises when given an array
        return replace(own, transform=PictureTransform(own.transform))
    return own


def _import(module: str) -> ModuleType:
    """Import a module, telling one that is not there from one that fails."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the module does
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            here = [found.name for found in pkgutil.iter_modules([str(Path.cwd())])]
            raise UnknownModelError(
                f"there is no module {error.name}, neither installed nor in the current directory {Path.cwd()}"
                f"{near_names(error.name, here)}"
            ) from error
        raise ModelError(f"{module} can't be imported: {type(error).__name__}: {first_line(error)}") from error


def _import_file(file: Path) -> ModuleType:
    """Import a file by the name that it has as a module of its package, or of the folder it lies in."""
    if not file.is_file():
        raise UnknownModelError(f"there is no file {file}, in the current directory {Path.cwd()}")
    name = ".".join(file.resolve().relative_to(_root(file)).with_suffix("").parts)
    found = _import(name)
    if found.__file__ is None or Path(found.__file__).resolve() != file.resolve():
        raise ModelError(f"{file} can't be imported: another module is called {name}, {found.__file__}: rename it")
    return found


def _root(file: Path) -> Path:
    """Return the folder that a file is imported from: the current one where that leads to it, else its package's."""
    place, here = file.resolve(), Path.cwd().resolve()
    below = place.relative_to(here).with_suffix("").parts if place.is_relative_to(here) else ("",)
    if all(part.isidentifier() for part in below):
        return here
    folder = place.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _defined(module: ModuleType) -> list[str]:
    """Name the functions and classes that a module defines itself."""
    return [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


@contextmanager
def _searched(*folders: Path) -> Iterator[None]:
    """Let modules be imported from folders: from the current directory, which a console script does not search."""
    places = list(dict.fromkeys(map(str, folders)))
    sys.path[:0] = places
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for place in places:
            if place in sys.path:  # what was imported may have taken it out
                sys.path.remove(place)
