"""Inputs of tensor subclasses: those with plain values inside are unwrapped, others are refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from relprop.errors import InputError


def as_plain(tree: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """Return a nested structure with plain tensors of the same shapes, and the tensors as they were, in order.

    Raises
    ------
    InputError
        If a tensor has no plain values, or holds others and so is none itself, and if something else holds tensors of
        which none has the samples in front.
    """
    given: list[Tensor] = []

    def plain(where: Any, leaf: Any) -> Any:
        name = name_of(where, len(tree[0]))
        if not isinstance(leaf, Tensor):
            _refuse_unusual(name, leaf)
            return leaf
        given.append(leaf)
        if kind := without_plain_values(leaf):
            raise InputError(f"input {name} is a {kind} tensor: pass one with plain values")
        if is_traceable_wrapper_subclass(leaf):
            raise InputError(
                f"input {name} is a {type(leaf).__name__}, which holds other tensors: pass a plain one, (B, ...)"
            )
        return leaf if type(leaf) is Tensor else leaf.as_subclass(Tensor)

    return pytree.tree_map_with_path(plain, tree, is_leaf=_is_packed), tuple(given)


def name_of(where: pytree.KeyPath, given: int) -> str:
    """Name a part of ``(args, kwargs)`` as the caller does: ``x``, ``x[1]`` of several, ``kwargs['mask']``."""
    side, *parts = where
    if side != pytree.SequenceKey(0):
        return "kwargs" + pytree.keystr(tuple(parts))
    return "x" + pytree.keystr(tuple(parts[1:] if given == 1 else parts))


def _is_packed(leaf: Any) -> bool:
    return isinstance(leaf, PackedSequence)


def _refuse_unusual(name: str, leaf: Any) -> None:
    if _is_packed(leaf):
        raise InputError(
            f"input {name} is a PackedSequence, in which the samples are mixed: pass the padded tensor, "
            "(B, T, ...), and a model that takes it without packing it"
        )
    if isinstance(leaf, Mapping):  # one that torch does not register
        raise InputError(
            f"input {name} is a {type(leaf).__name__} of {', '.join(map(str, leaf))}: if the model takes these by "
            "name, pass x=() and kwargs=dict(...) of it"
        )


def without_plain_values(tensor: Tensor) -> str:
    """Say what a tensor, of any shape, is that does not hold one number for each entry; empty if it does."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse" if "sparse" in str(tensor.layout) else str(tensor.layout)
    if tensor.is_quantized:
        return "quantized"
    return "meta" if tensor.is_meta else ""


def as_given(relevance: Tensor, given: Tensor | None) -> Tensor:
    """Return relevance, shaped like the input, as a tensor of the input's class, where the class allows."""
    if given is None or type(given) in (Tensor, nn.Parameter) or relevance.shape != given.shape:
        return relevance
    try:
        wrapped: Tensor = relevance.as_subclass(type(given))
        for name, value in vars(given).items():
            setattr(wrapped, name, value if isinstance(value, Tensor) else copy.copy(value))
    except Exception:  # whatever a class does that wants to be made in its own way
        return relevance
    return wrapped
