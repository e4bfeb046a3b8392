"""Structural copies of models: new module objects around the very same tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn

from relprop.tracing.fingerprint import PLAIN, attributes_of, global_names, hooks_of, parts_of
from relprop.tracing.reach import Reach, cells_of, defaults_of, reach


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules but none of its tensors.

    Tracing patches and even calls modules; on a copy that disturbs nobody who uses the model meanwhile. Forward
    hooks are copied, and so is what they keep features in: a copied forward reads what a copied hook wrote. What
    code finds by a global name is shared, see `relprop.tracing.undisturbed`. Backward hooks are left out; what can't
    be copied (a lock, a file) is shared.
    """
    found = reach(model)
    return _copy(model, found, {id(tensor): tensor for tensor in found.tensors})


def callable_copy(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """Copy a model's modules and all its tensors but the parameters, so that a call changes nothing of the model.

    Returns
    -------
    nn.Module, mapping of int to Tensor
        The copy, and the model's own tensor, of any shape, for the identity of each that was copied.
    """
    found = reach(model)
    held = {id(tensor): tensor for tensor in found.tensors}
    memo = {key: t if isinstance(t, nn.Parameter) else t.detach().clone() for key, t in held.items()}
    return _copy(model, found, memo), {id(memo[key]): tensor for key, tensor in held.items()}


def independent_copy(model: nn.Module) -> nn.Module:
    """Copy a model and all its tensors, hooks included: one may change it as one likes."""
    found = reach(model)
    memo = {id(t): copy.deepcopy(t) if isinstance(t, nn.Parameter) else t.detach().clone() for t in found.tensors}
    return _copy(model, found, memo)


def _copy(model: nn.Module, found: Reach, memo: dict[int, Any]) -> nn.Module:
    for module in found.modules:
        memo |= {id(hooks): OrderedDict() for hooks in (module._backward_hooks, module._backward_pre_hooks)}
    memo |= {id(value): value for value in found.shared}
    functions = _Functions(found)
    try:
        copied, memo = _deepcopy(model, memo, functions)
    except Exception:  # whatever the attribute that can't be copied raises
        copied, memo = _deepcopy(model, memo | _not_copyable(found, memo | functions.fresh()), functions)
    twins = _twins(found, memo)
    for module, twin in twins:
        _restore_rest(module, twin, memo)
    for module, twin in twins:
        _restore_mode(module, twin)
    for module, twin in twins:  # a class may set the flags of others
        if twin.training != module.training:
            twin.training = module.training
    return copied


def _deepcopy(model: nn.Module, memo: dict[int, Any], functions: _Functions) -> tuple[nn.Module, dict[int, Any]]:
    memo = memo | functions.fresh()
    copied = copy.deepcopy(model, memo)
    functions.fill(memo)
    return copied, memo


def _twins(found: Reach, memo: dict[int, Any]) -> list[tuple[nn.Module, nn.Module]]:
    """Return modules and their copies; those that a class made in a way of its own are found by their names."""
    twins = {id(module): memo[id(module)] for module in found.modules if id(module) in memo}
    for module in found.modules:  # whatever holds others comes first
        held = getattr(twins.get(id(module)), "_modules", {})
        for name, child in module.named_children():
            if isinstance(twin := held.get(name), nn.Module):
                twins.setdefault(id(child), twin)
    pairs = ((module, twins.get(id(module))) for module in found.modules)
    return [(module, twin) for module, twin in pairs if isinstance(twin, nn.Module) and twin is not module]


_REGISTERS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def _restore_rest(module: nn.Module, twin: nn.Module, memo: dict[int, Any]) -> None:
    """Give a copy what its class's own way of copying left out, as ``fx.GraphModule`` does: hooks and attributes."""
    for name, value in attributes_of(module):
        if name not in vars(twin):
            vars(twin)[name] = _copied(value, memo)
    for name in _REGISTERS:
        if getattr(module, name) and not getattr(twin, name):
            setattr(twin, name, copy.deepcopy(getattr(module, name), memo))


def _restore_mode(module: nn.Module, twin: nn.Module) -> None:
    """Give a copy the mode of the original: some classes are copied by a constructor, which switches it.

    A class with a ``train`` of its own is switched by that method, since it may do more: torchvision's feature
    extractors then choose one of two graphs.
    """
    if twin.training != module.training and type(twin).train is not nn.Module.train:
        twin.train(module.training)


def _not_copyable(found: Reach, memo: dict[int, Any]) -> dict[int, Any]:
    """Return what of a model's attributes and hooks refuses to be copied, by its identity."""
    refused: dict[int, Any] = {}
    for module in reversed(found.modules):  # inner ones first
        hooks = [hook for register in hooks_of(module) for hook in register.values()]
        for value in [*(value for _, value in attributes_of(module)), *hooks]:
            refused |= _refused(value, memo | refused)
    return refused


def _refused(value: Any, memo: dict[int, Any], depth: int = 6) -> dict[int, Any]:
    if _can_be_copied(value, memo):
        return {}
    parts: dict[int, Any] = {}
    for part in parts_of(value) if depth and not isinstance(value, FunctionType) else ():
        parts |= _refused(part, memo | parts, depth - 1)
    return parts if parts and _can_be_copied(value, memo | parts) else {id(value): value}


def _can_be_copied(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # as above
        return False
    return True


class _Functions:
    """Copies of the functions that refer to something of their own: in a closure, a default, or by a global name."""

    def __init__(self, found: Reach) -> None:
        self.modules = set(map(id, found.modules))
        self.fixed = set(map(id, found.cells))  # of methods, which are not copied
        self.functions = list(filter(self._refers, found.functions))
        self.cells: dict[int, tuple[CellType, CellType]] = {}
        self.twins: list[tuple[FunctionType, FunctionType]] = []

    def _refers(self, function: FunctionType) -> bool:
        values = (*cells_of(function), *defaults_of(function))
        return bool(self._named_modules(function)) or any(not isinstance(value, (*PLAIN, type)) for value in values)

    def _named_modules(self, function: FunctionType) -> dict[str, nn.Module]:
        """Return the parts of the model that a function finds by global names."""
        named = ((name, function.__globals__.get(name)) for name in global_names(function.__code__))
        return {name: value for name, value in named if isinstance(value, nn.Module) and id(value) in self.modules}

    def fresh(self) -> dict[int, Any]:
        """Return new functions, which refer to nothing so far, for the identity of the old ones."""
        self.cells, self.twins = {}, []
        for function in self.functions:
            # Its own globals, which are watched, unless a part of the model is among them.
            namespace = dict(function.__globals__) if self._named_modules(function) else function.__globals__
            cells = tuple(map(self._cell, function.__closure__ or ()))
            self.twins.append((function, FunctionType(function.__code__, namespace, function.__name__, None, cells)))
        return {id(function): twin for function, twin in self.twins}

    def _cell(self, cell: CellType) -> CellType:
        return cell if id(cell) in self.fixed else self.cells.setdefault(id(cell), (cell, CellType()))[1]

    def fill(self, memo: dict[int, Any]) -> None:
        """Let the new functions refer to the copies of what the old ones refer to."""
        for cell, twin_cell in self.cells.values():
            if cell != CellType():  # something is assigned
                twin_cell.cell_contents = _copied(cell.cell_contents, memo)
        for function, twin in self.twins:
            twin.__defaults__ = _copied(function.__defaults__, memo)
            twin.__kwdefaults__ = _copied(function.__kwdefaults__, memo)
            vars(twin).update(_copied(vars(function), memo))
            twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
            for name, module in self._named_modules(function).items():
                twin.__globals__[name] = memo.get(id(module), module)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # as above: it is shared
        return value
