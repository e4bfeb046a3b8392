"""What a capture depends on, as a key of its cache: a model's structure, settings and tensors."""

from __future__ import annotations

import dis
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import chain
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return the registers of a module's own forward hooks: before, and behind."""
    return module._forward_pre_hooks, module._forward_hooks


def attributes_of(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the attributes that a module has beside those of every module."""
    return [(name, value) for name, value in vars(module).items() if name not in _INTERNALS]


_INTERNALS = frozenset(vars(nn.Module()))


def fingerprint(model: nn.Module) -> tuple[object, ...]:
    """Identity of a model's structure, settings and tensors: another fingerprint means another graph.

    Values of parameters are not part of it, since a graph refers to the tensors themselves.
    """
    modules = tuple(
        (
            path,
            type(module),
            module.training,
            tuple(IdentityKey(hook) for hooks in hooks_of(module) for hook in hooks.values()),
            tuple((name, cache_key_of(value)) for name, value in attributes_of(module)),
        )
        for path, module in model.named_modules()
    )
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    tensors = tuple(
        (name, id(tensor), tensor.dtype, tensor.device, tuple(tensor.shape)) for name, tensor in chain(*named)
    )
    return modules, tensors


PLAIN: tuple[type, ...] = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class IdentityKey:
    """Equal to another only while both stand for the same living object (a number may be given again)."""

    def __init__(self, value: object) -> None:
        self.key = id(value)
        self.value: Callable[[], object]
        try:
            self.value, self.mortal = weakref.ref(value), True
        except TypeError:  # None and some kinds of object can't be referred to weakly: they are kept
            self.value, self.mortal = lambda: value, False

    def __hash__(self) -> int:
        return self.key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdentityKey):
            return False
        mine = self.value()
        dead = self.mortal and mine is None
        return not dead and mine is other.value()


def cache_key_of(value: Any, depth: int = 4) -> object:
    """Return a hashable description of a value for the cache of captures.

    Containers are described by what they hold, functions by what they refer to, everything else by its identity.
    """
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, Tensor):
        return IdentityKey(value), value.dtype, value.device, tuple(value.shape)
    is_container = isinstance(value, CONTAINERS)
    if not depth or (is_container and len(value) > LONG):
        return IdentityKey(value), len(value) if is_container else None
    if isinstance(value, FunctionType):  # a new object whenever its line is reached, in a loop for example
        return IdentityKey(value.__code__), tuple(cache_key_of(part, depth - 1) for part in parts_of(value))
    # Python makes a new method object at every access.
    what = type(value) if is_container or isinstance(value, MethodType) else IdentityKey(value)
    return what, tuple(cache_key_of(part, depth - 1) for part in parts_of(value))


CONTAINERS = (list, tuple, set, frozenset, deque, dict)
LONG = 1000
"""A longer container is data. Its identity and length describe it, since every explanation needs the description."""


def parts_of(value: Any) -> Iterable[Any]:
    """Return what a value is made of, keys and names included; nothing where only its identity describes it."""
    if isinstance(value, dict):
        return chain(value, value.values())
    if isinstance(value, CONTAINERS):
        return iter(value)
    if isinstance(value, FunctionType):
        return _referred(value)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if hasattr(value, "__dict__") and not isinstance(value, Tensor | nn.Module | type | ModuleType):
        return parts_of(vars(value))
    return ()


def _referred(function: FunctionType) -> list[Any]:
    """Return the values that a function finds in its cells, defaults, attributes and globals."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    found = [function.__globals__.get(name) for name in global_names(function.__code__)]
    return [*cells, *(function.__defaults__ or ()), function.__kwdefaults__, vars(function), *found]


@cache
def global_names(code: CodeType) -> tuple[str, ...]:
    """Return the globals that a function reads, and those of functions and comprehensions inside it."""
    own = (step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
    inner = (name for const in code.co_consts if isinstance(const, CodeType) for name in global_names(const))
    return tuple(dict.fromkeys((*own, *inner)))
