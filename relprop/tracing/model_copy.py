"""Structural copies of models: new module objects around the very same tensors."""

from __future__ import annotations

import copy
import dis
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import chain
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def held_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor a model holds: parameters, buffers, and what its attributes are or lead to."""
    modules = list(model.modules())
    known = set(map(id, modules))
    for module in modules:  # it grows by those that are held outside of any register, in a list say
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        for value in chain.from_iterable(_leaves(part) for _, part in _attributes(module)):
            if isinstance(value, Tensor):
                yield value
            else:
                found = [inner for inner in value.modules() if id(inner) not in known]
                known.update(map(id, found))
                modules += found


def _leaves(value: Any, depth: int = 4) -> Iterator[Tensor | nn.Module]:
    if isinstance(value, Tensor | nn.Module):
        yield value
    elif depth and not isinstance(value, FunctionType):  # functions are not copied
        for part in _parts(value):
            yield from _leaves(part, depth - 1)


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules but none of its tensors.

    Tracing patches and even calls modules; on a copy that disturbs nobody who uses the model meanwhile. Forward
    hooks stay the user's own objects, each inside a `Hook`, backward hooks are left out; what can't be copied (a
    lock, a file) is shared.
    """
    return _copy(model, {id(tensor): tensor for tensor in held_tensors(model)})


def callable_copy(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """Copy a model's modules and all its tensors but the parameters, so that a call changes nothing of the model.

    Returns
    -------
    nn.Module, mapping of int to Tensor
        The copy, and the model's own tensor for the identity of each that was copied.
    """
    held = {id(tensor): tensor for tensor in held_tensors(model)}
    memo = {key: t if isinstance(t, nn.Parameter) else t.detach().clone() for key, t in held.items()}
    return _copy(model, memo), {id(memo[key]): tensor for key, tensor in held.items()}


def _copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    for module in model.modules():
        memo |= {id(hook): Hook(hook) for known in _hooks(module) for hook in known.values()}
        memo |= {id(known): OrderedDict() for known in (module._backward_hooks, module._backward_pre_hooks)}
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # whatever the attribute that can't be copied raises
        return copy.deepcopy(model, memo | _not_copyable(model, memo))


def _not_copyable(model: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    shared = {}
    for module in model.modules():
        for _, value in _attributes(module):
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:  # as above
                shared[id(value)] = value
    return shared


class Hook:
    """A forward hook on a structural copy, which tells whether it takes part in the computation.

    A hook takes part if it returns something, sets an attribute of its module, or writes into a tensor that it is
    given. One that does nothing of it observes; it must not see the tensors of a tracer, which it may keep.
    """

    def __init__(self, hook: Any) -> None:
        self.hook = hook
        self.takes_part = False

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Call the hook and watch what it does."""
        before = dict(vars(module))
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        versions = [_version(tensor) for tensor in given]
        result = self.hook(module, *args, **kwargs)
        after = vars(module)
        changed = before.keys() != after.keys() or any(after[name] is not before[name] for name in before)
        self.takes_part |= changed or result is not None or versions != [_version(tensor) for tensor in given]
        return result


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have none


def drop_observers(model: nn.Module) -> None:
    """Take from a structural copy the hooks that did not take part when it was called."""
    for module in model.modules():
        for known in _hooks(module):
            for key in [key for key, hook in known.items() if isinstance(hook, Hook) and not hook.takes_part]:
                del known[key]


def _hooks(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_pre_hooks, module._forward_hooks


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
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
            tuple(Same(hook) for known in _hooks(module) for hook in known.values()),
            tuple((name, state_of(value)) for name, value in _attributes(module)),
        )
        for path, module in model.named_modules()
    )
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    tensors = tuple(
        (name, id(tensor), tensor.dtype, tensor.device, tuple(tensor.shape)) for name, tensor in chain(*named)
    )
    return modules, tensors


_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Same:
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
        if not isinstance(other, Same):
            return False
        mine = self.value()
        dead = self.mortal and mine is None
        return not dead and mine is other.value()


def state_of(value: Any, depth: int = 4) -> object:
    """Describe a value by what it holds, a function by what it refers to, and what tells neither by its identity."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, Tensor):
        return Same(value), value.dtype, value.device, tuple(value.shape)
    is_container = isinstance(value, _CONTAINERS)
    if not depth or (is_container and len(value) > _LONG):
        return Same(value), len(value) if is_container else None
    # A method is a new object whenever it is asked for.
    what = type(value) if is_container or isinstance(value, MethodType) else Same(value)
    return what, tuple(state_of(part, depth - 1) for part in _parts(value))


_CONTAINERS = (list, tuple, set, frozenset, dict)
_LONG = 1000
"""A container of more items is data, told by its identity and length: this is asked for every explanation."""


def _parts(value: Any) -> Iterable[Any]:
    """Return what a value is made of, keys and names included; nothing of one that only its identity tells."""
    if isinstance(value, dict):
        return chain(value, value.values())
    if isinstance(value, _CONTAINERS):
        return iter(value)
    if isinstance(value, FunctionType):
        return _referred(value)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if hasattr(value, "__dict__") and not isinstance(value, Tensor | nn.Module | type | ModuleType):
        return _parts(vars(value))
    return ()


def _referred(function: FunctionType) -> list[Any]:
    """Return the values that a function finds in its cells, defaults, attributes and globals."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    found = [function.__globals__.get(name) for name in _global_names(function.__code__)]
    return [*cells, *(function.__defaults__ or ()), function.__kwdefaults__, vars(function), *found]


@lru_cache
def _global_names(code: CodeType) -> tuple[str, ...]:
    """Return the globals that a function reads, and those of functions and comprehensions inside it."""
    own = (step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
    inner = (name for const in code.co_consts if isinstance(const, CodeType) for name in _global_names(const))
    return tuple(dict.fromkeys((*own, *inner)))
