"""What the code of a model can reach: its modules and tensors, and what hooks and functions refer to elsewhere."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from relprop.tracing.fingerprint import CONTAINERS, LONG, PLAIN, attributes_of, global_names, hooks_of, parts_of

_ATTRIBUTE_DEPTH = 4
_HOOK_DEPTH = 6
"""From a partial to a method, its object, a dict of it, and what that holds."""
_GLOBAL_DEPTH = 3


@dataclass
class Reach:
    """What `reach` found, each once.

    Parameters
    ----------
    modules : list of nn.Module
        Of the model, those held outside of any register too, in a list say, and those that hooks refer to.
    tensors : list of Tensor
        That these hold, and that functions refer to, of any shape.
    functions : list of FunctionType
        That attributes and hooks lead to, methods apart.
    methods : dict with FunctionType as keys
        Of the classes of all these, and of hooks.
    shared : list
        Containers and objects that a copy has in common with the model: those that code finds by a global name, in a
        class, or in the closure of a method, and those too far from a hook to be copied.
    cells : list of CellType
        The closures of methods, which belong to a class.
    own : list
        The other containers and objects, of which a copy has its own.
    """

    modules: list[nn.Module] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    functions: list[FunctionType] = field(default_factory=list)
    methods: dict[FunctionType, None] = field(default_factory=dict)
    shared: list[Any] = field(default_factory=list)
    cells: list[CellType] = field(default_factory=list)
    own: list[Any] = field(default_factory=list)


def reach(model: nn.Module) -> Reach:
    """Find what the code of a model can reach."""
    return _Search(model).found


class _Search:
    """One search, which visits nothing twice."""

    def __init__(self, model: nn.Module) -> None:
        self.found = Reach()
        self.visited: set[int] = set()
        self.named: set[int] = set()
        self._visit(model, 0, of_hook=False)
        for module in self.found.modules:  # it grows meanwhile
            self._visit_module(module)
        for kind in {type(module) for module in self.found.modules}:
            self._add_methods(kind)
            for base in _own_bases(kind):
                self._share(vars(base).values())
        for method in self.found.methods:
            self.found.cells += method.__closure__ or ()
            self._visit_names(method, 2)
            for value in cells_of(method):
                self._visit_named(value, 2)
        for function in self.found.functions:
            self._visit_names(function, _GLOBAL_DEPTH)

    def _visit_module(self, module: nn.Module) -> None:
        held = (module.parameters(recurse=False), module.buffers(recurse=False), module.children())
        for value in chain(*held):
            self._visit(value, 0, of_hook=False)
        for _, value in attributes_of(module):
            self._visit(value, _ATTRIBUTE_DEPTH, of_hook=False)
        for register in hooks_of(module):
            for hook in register.values():
                self._visit(hook, _HOOK_DEPTH, of_hook=True)

    def _visit(self, value: Any, depth: int, of_hook: bool) -> None:
        """Follow what a copy of the model has of its own."""
        if id(value) in self.visited or isinstance(value, (*PLAIN, type, ModuleType)):
            return
        self.visited.add(id(value))
        if isinstance(value, nn.Module):
            self.found.modules.append(value)
        elif isinstance(value, Tensor):
            self.found.tensors.append(value)
        elif isinstance(value, FunctionType):
            self.found.functions.append(value)
            for part in chain(cells_of(value), defaults_of(value)):
                self._visit(part, depth, of_hook)
        elif isinstance(value, MethodType) and isinstance(value.__func__, FunctionType):
            self.found.methods.setdefault(value.__func__)
            self._visit(value.__self__, depth, of_hook)
        elif depth and not _is_long(value):
            if of_hook:
                self._add_methods(type(value))
            if is_mutable(value):
                self.found.own.append(value)
            for part in parts_of(value):
                self._visit(part, depth - 1, of_hook)
        elif of_hook:
            self.found.shared.append(value)

    def _visit_names(self, function: FunctionType, depth: int) -> None:
        for name in global_names(function.__code__):
            self._visit_named(function.__globals__.get(name), depth)

    def _visit_named(self, value: Any, depth: int) -> None:
        """Follow what code finds where no copy can put anything else."""
        apart = (*PLAIN, type, ModuleType, Tensor, nn.Module, logging.Logger)
        if id(value) in self.named or isinstance(value, apart):
            return
        self.named.add(id(value))
        if isinstance(value, FunctionType):
            if depth and not _is_of_torch(value.__module__):
                self._visit_names(value, depth - 1)
                for part in chain(cells_of(value), defaults_of(value)):
                    self._visit_named(part, depth - 1)
        elif not _is_of_torch(type(value).__module__):
            self._share([value])
            for part in parts_of(value) if depth and not _is_long(value) else ():
                self._visit_named(part, depth - 1)

    def _share(self, values: Iterable[Any]) -> None:
        self.found.shared += filter(is_mutable, values)

    def _add_methods(self, kind: type) -> None:
        for base in _own_bases(kind):
            self.found.methods |= {value: None for value in vars(base).values() if isinstance(value, FunctionType)}


def is_mutable(value: Any) -> bool:
    """Whether something holds other values and may come to hold others: a container, or an object."""
    if isinstance(value, dict | list | set | deque):
        return True
    apart = isinstance(value, Tensor | nn.Module | type | ModuleType | FunctionType | MethodType | logging.Logger)
    return not apart and hasattr(value, "__dict__") and not hasattr(type(value), "__get__")


def cells_of(function: FunctionType) -> list[Any]:
    """Return the values in a function's closure."""
    return [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]


def defaults_of(function: FunctionType) -> Iterator[Any]:
    """Return the values that a function has as defaults and attributes."""
    return chain(function.__defaults__ or (), (function.__kwdefaults__ or {}).values(), vars(function).values())


def _is_long(value: Any) -> bool:
    return isinstance(value, CONTAINERS) and len(value) > LONG


def _own_bases(kind: type) -> list[type]:
    """Return a class and its bases, those of Python and torch apart."""
    return [base for base in kind.__mro__ if base.__module__ != "builtins" and not _is_of_torch(base.__module__)]


def _is_of_torch(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "torch"
