"""Tensors of classes of their own, as libraries of pictures have them: plain inside, given back as they came."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from relprop.errors import InputError


def as_plain(tree: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """Return a nested structure with plain tensors, and the tensors as they were, in order.

    Raises
    ------
    InputError
        If a tensor of a class of its own holds others, and so is none itself.
    """
    given: list[Tensor] = []

    def plain(where: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        given.append(leaf)
        if type(leaf) is Tensor:
            return leaf
        if is_traceable_wrapper_subclass(leaf):
            raise InputError(
                f"input {pytree.keystr(where)} is a {type(leaf).__name__}, which holds other tensors: pass a plain "
                "one, (B, ...)"
            )
        return leaf.as_subclass(Tensor)

    return pytree.tree_map_with_path(plain, tree), tuple(given)


def as_given(relevance: Tensor, given: Tensor) -> Tensor:
    """Return relevance as a tensor of the class of the input, with what that says of itself, where the class allows."""
    kind = type(given)
    if kind is Tensor or isinstance(given, nn.Parameter) or relevance.shape != given.shape:
        return relevance
    try:
        wrapped = relevance.as_subclass(kind)
        for name, value in vars(given).items():
            setattr(wrapped, name, value if isinstance(value, Tensor) else copy.copy(value))
    except Exception:  # whatever a class does that wants to be made in its own way
        return relevance
    return wrapped
