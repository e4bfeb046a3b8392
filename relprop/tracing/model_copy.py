"""Structural copies of models: new module objects around the very same tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.tracing.fingerprint import attributes_of, hooks_of, parts_of


def held_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor a model holds: parameters, buffers, and what its attributes are or lead to."""
    modules = list(model.modules())
    known = set(map(id, modules))
    for module in modules:  # it grows by those that are held outside of any register, in a list say
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        for value in chain.from_iterable(_leaves(part) for _, part in attributes_of(module)):
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
        for part in parts_of(value):
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
        memo |= {id(hook): Hook(hook) for known in hooks_of(module) for hook in known.values()}
        memo |= {id(known): OrderedDict() for known in (module._backward_hooks, module._backward_pre_hooks)}
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # whatever the attribute that can't be copied raises
        return copy.deepcopy(model, memo | _not_copyable(model, memo))


def _not_copyable(model: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    shared = {}
    for module in model.modules():
        for _, value in attributes_of(module):
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
        for known in hooks_of(module):
            for key in [key for key, hook in known.items() if isinstance(hook, Hook) and not hook.takes_part]:
                del known[key]
