"""Calls that leave no trace outside of the copy that is called: in globals, classes, and what copies share."""

from __future__ import annotations

import dis
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.tracing.fingerprint import LONG
from relprop.tracing.reach import is_mutable, reach


@contextmanager
def undisturbed(model: nn.Module | ExportedProgram, *, whole: bool = False) -> Iterator[Callable[[], None]]:
    """Put back what copies of a model share with it and with the code around it, at the end of the block.

    It yields a function that does so at once.

    A hook may keep a feature in a global dict, from where the forward takes it. No copy of the model can have that dict
    to itself, so it is filled while a copy is called, and put back.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        The model itself.
    whole : bool
        Whether to put back the model too, its own buffers and attributes: so it can be called itself.
    """
    if isinstance(model, ExportedProgram):  # it has no hooks, and no code that refers to anything
        yield lambda: None
        return
    found = reach(model)
    containers = [value for value in {id(value): value for value in found.shared}.values() if is_mutable(value)]
    undo = [*map(_undo, containers), *(_undo_cell(cell) for cell in found.cells)]
    undo += map(_undo_globals, (*found.functions, *found.methods))
    if whole:
        undo += map(_undo, found.own)
        undo += [_undo_cell(cell) for function in found.functions for cell in function.__closure__ or ()]
        for module in found.modules:
            undo += map(_undo_dict, (vars(module), module._buffers, module._parameters, module._modules))
        undo += [_undo_tensor(tensor) for tensor in found.tensors if not isinstance(tensor, nn.Parameter)]

    def put_back() -> None:
        for step in undo:
            step()

    try:
        yield put_back
    finally:
        put_back()


def _undo(value: Any) -> Callable[[], None]:
    """Return what puts back the contents of a container or object that has changed."""
    if isinstance(value, dict):
        return _undo_dict(value)
    # The methods are those of the base: a class of one's own may do more in its own.
    kind: Any = next((kind for kind in (list, set, deque) if isinstance(value, kind)), None)
    if kind is None:
        return _undo_dict(vars(value))
    if kind.__len__(value) > 1000 * LONG:
        return lambda: None
    before = list(kind.__iter__(value))

    def put_back() -> None:
        now = list(kind.__iter__(value))
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            kind.clear(value)
            (kind.update if kind is set else kind.extend)(value, before)

    return put_back


def _undo_dict(held: dict[Any, Any]) -> Callable[[], None]:
    kind: Any = OrderedDict if isinstance(held, OrderedDict) else dict
    before = dict(kind.items(held))

    def put_back() -> None:
        now = dict(kind.items(held))
        if now.keys() != before.keys() or any(now[key] is not before[key] for key in before):
            kind.clear(held)
            for key, value in before.items():  # in the order it had
                kind.__setitem__(held, key, value)

    return put_back


def _undo_cell(cell: Any) -> Callable[[], None]:
    try:
        before = cell.cell_contents
    except ValueError:  # nothing is assigned yet
        return lambda: None

    def put_back() -> None:
        cell.cell_contents = before

    return put_back


def _undo_tensor(tensor: Tensor) -> Callable[[], None]:
    """Return what puts back the entries of a tensor, of any shape, that was written to."""
    if tensor.is_inference():  # nobody may write to it
        return lambda: None
    version, before = tensor._version, tensor.detach().clone()

    def put_back() -> None:
        if tensor._version != version:
            tensor.detach().copy_(before)

    return put_back


def _undo_globals(function: FunctionType) -> Callable[[], None]:
    """Return what puts back the global names that a function assigns to."""
    names = _assigned_globals(function.__code__)
    namespace = function.__globals__
    before = {name: namespace[name] for name in names if name in namespace}

    def put_back() -> None:
        for name in names:
            if name in before:
                namespace[name] = before[name]
            else:
                namespace.pop(name, None)

    return put_back


@cache
def _assigned_globals(code: CodeType) -> tuple[str, ...]:
    return tuple({step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"})
