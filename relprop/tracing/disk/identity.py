"""A model's code, structure and settings, described in words that mean the same in another process."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket

from relprop.tracing.disk.graph_writing import NotWritableError
from relprop.tracing.fingerprint import attributes_of, hooks_of
from relprop.versions import version, versions

_PLAIN = (bool, int, str, bytes, type(None), complex, torch.dtype, torch.device, torch.Size, torch.memory_format, range)
_DEPTH = 12
"""How deep a value may lie inside of others."""
_LONG = 1000
"""Items of a container that still is a setting, and no data."""
_INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed packages, those of the user and of an environment below this one too."""
_OWN = ("relprop.graph", "relprop.tracing")
"""Of this library, the packages that make a graph."""


def describe_model(model: nn.Module, held: Sequence[Tensor]) -> list[Any]:
    """Describe all of a model that its graph depends on, but for the values of its weights.

    That is the code of its classes, its modules with their settings and hooks, the shapes and types of its tensors,
    which of them are the same, and the values of buffers that hold integers or one number: code may branch on these.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    held : sequence of Tensor
        Those that its code can reach, of any shapes, see `relprop.tracing.reach.reach`.

    Raises
    ------
    NotWritableError
        If a part of it has no description that another process would share: an open file, a class without a source.
    """
    return _Describer(model, held).described()


def describe_software() -> list[Any]:
    """Describe what code is at work: versions of what is installed, and the content of what is merely on the path."""
    return [versions(), sys.version, str(torch.get_default_dtype()), sorted(_sources().items())]


class _Describer:
    def __init__(self, model: nn.Module, held: Sequence[Tensor]) -> None:
        self.model = model
        self.held = held
        self.places = {id(tensor): place for place, tensor in enumerate(held)}
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.met: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no identity is given twice
        self.classes: dict[type, None] = {}

    def described(self) -> list[Any]:
        modules = [self.module(path, module) for path, module in self.model.named_modules(remove_duplicate=False)]
        tensors = [self.tensor(tensor) for tensor in self.held]
        return [modules, tensors, [self.code_of(kind) for kind in self.classes]]

    def module(self, path: str, module: nn.Module) -> list[Any]:
        named = [*module._parameters.items(), *module._buffers.items()]
        return [
            path,
            self.kind(type(module)),
            module.training,
            [[self.value(hook) for hook in hooks.values()] for hooks in hooks_of(module)],
            [[name, self.value(value)] for name, value in attributes_of(module)],
            [[name, None if tensor is None else self.places.get(id(tensor))] for name, tensor in named],
        ]

    def tensor(self, tensor: Tensor) -> list[Any]:
        """Describe a tensor of any shape by that and its type, and by its entries where code may branch on them."""
        plain = [str(tensor.dtype), str(tensor.device), list(tensor.shape), list(tensor.stride())]
        is_weight = isinstance(tensor, nn.Parameter) or (tensor.is_floating_point() and tensor.numel() > 1)
        if tensor.is_meta or is_weight:
            return plain
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [*plain, hashlib.sha256(data.tobytes()).hexdigest()]

    def value(self, value: Any, depth: int = _DEPTH) -> Any:
        """Describe one value; what was met before, by when."""
        if isinstance(value, _PLAIN):
            return [type(value).__name__, str(value)]
        if isinstance(value, float | np.generic | PurePath):
            return [type(value).__name__, repr(value)]
        if id(value) in self.paths:
            return ["module", self.paths[id(value)]]
        if id(value) in self.places:
            return ["held", self.places[id(value)]]
        if id(value) in self.met:
            return ["met", self.met[id(value)]]
        if not depth:
            raise NotWritableError("a value that lies too deep")
        self.met[id(value)] = len(self.met)
        self.kept.append(value)
        return self.parts(value, depth - 1)

    def parts(self, value: Any, depth: int) -> list[Any]:
        name = _name_of(type(value))
        if isinstance(value, Enum):
            return [name, value.name]
        if isinstance(value, type):
            return ["class", self.kind(value)]
        if isinstance(value, ModuleType | BuiltinFunctionType | OpOverload | OpOverloadPacket):
            return [name, str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", value))]
        if isinstance(value, FunctionType):
            return [_name_of(value), _digest(value.__code__), [self.value(v, depth) for v in _referred(value)]]
        if isinstance(value, MethodType):
            return ["method", self.value(value.__func__, depth), self.value(value.__self__, depth)]
        if isinstance(value, partial):
            return ["partial", *(self.value(part, depth) for part in (value.func, value.args, value.keywords))]
        if isinstance(value, dict):
            self.limit(value)
            return [name, [[self.value(key, depth), self.value(item, depth)] for key, item in value.items()]]
        if isinstance(value, list | tuple | set | frozenset):
            self.limit(value)
            items = [self.value(item, depth) for item in value]
            return [name, sorted(items, key=str) if isinstance(value, set | frozenset) else items]
        if isinstance(value, np.ndarray):
            return [name, str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if isinstance(value, nn.Module):
            return ["held apart", self.module("", value)]
        if isinstance(value, Tensor) or not hasattr(value, "__dict__"):
            raise NotWritableError(f"a value of type {name}")
        try:
            value.__reduce_ex__(2)
        except TypeError as error:  # an open file, a lock: it holds more than its attributes
            raise NotWritableError(f"a value of type {name}") from error
        self.kind(type(value))
        return [name, [[key, self.value(item, depth)] for key, item in vars(value).items()]]

    def limit(self, container: Any) -> None:
        if len(container) > _LONG:
            raise NotWritableError(f"a {type(container).__name__} of {len(container)} items")

    def kind(self, kind: type) -> str:
        for base in kind.__mro__:
            if base not in (object, nn.Module):
                self.classes[base] = None
        return _name_of(kind)

    def code_of(self, kind: type) -> list[Any]:
        """Describe a class by the code of its functions, which catches those that were exchanged, and its package."""
        root = kind.__module__.partition(".")[0]
        module = sys.modules.get(kind.__module__)
        if getattr(module, "__file__", None) is None and root not in sys.stdlib_module_names:
            raise NotWritableError(f"{_name_of(kind)}, whose source is no file")
        functions = [[name, _digest(f.__code__), _globals(f)] for name, f in sorted(_functions(kind).items())]
        return [_name_of(kind), version(root) if root not in sys.stdlib_module_names else "", functions]


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _functions(kind: type) -> Mapping[str, FunctionType]:
    """Return the functions of a class, those of its properties and of class and static methods too."""
    found = {}
    for name, member in vars(kind).items():
        inner = member
        for attribute in ("__func__", "fget", "func"):
            inner = getattr(inner, attribute, inner)
        if isinstance(inner, FunctionType):
            found[name] = inner
    return found


def _globals(function: FunctionType) -> list[str]:
    """Return the plain values that a function reads from its module, which may have been set after its source ran."""
    values = ((name, function.__globals__.get(name)) for name in function.__code__.co_names)
    return [f"{name}={value!r}" for name, value in values if isinstance(value, bool | int | float | str)]


def _referred(function: FunctionType) -> list[Any]:
    """Return what a function holds beside its code and its module, whose source counts as a whole."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return [*cells, function.__defaults__, function.__kwdefaults__]


def _digest(code: CodeType) -> str:
    """Digest what a function does, wherever its file lies."""
    inner = [_digest(const) if isinstance(const, CodeType) else _spell(const) for const in code.co_consts]
    content = repr((code.co_code, inner, code.co_names, code.co_varnames, code.co_freevars, code.co_flags))
    return hashlib.sha256(content.encode()).hexdigest()


def _spell(constant: Any) -> str:
    """Write a constant of a code; the order of a set is another in every process."""
    return f"set({sorted(map(repr, constant))})" if isinstance(constant, frozenset) else repr(constant)


def _sources() -> Mapping[str, str]:
    """Return a digest of each loaded source that belongs to no installed package: what its user may change.

    Of this library, whose modules are loaded as they are needed, those count that make a graph.
    """
    paths = [*sysconfig.get_paths().values(), *(path for path in sys.path if os.path.basename(path) in _INSTALLED)]
    installed = tuple({os.path.join(os.path.realpath(path), "") for path in paths})
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        ours = not name.startswith("relprop.") or name.startswith(_OWN)
        if ours and isinstance(file, str) and file.endswith(".py") and not file.startswith(installed):
            path = os.path.realpath(file)
            if not path.startswith(installed) and os.path.isfile(path):
                found[name] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found
