"""The inputs of a model: checked once, and which of them hold the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from relprop.errors import InputError


def signature(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a capture depends on in its inputs: all but values and the number of samples."""
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    marks = iter(batched_inputs(args, kwargs))

    def describe(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        batched = next(marks)
        return leaf.shape[1:] if batched else leaf.shape, batched, leaf.dtype, leaf.device

    return (str(spec), *map(describe, leaves))


def batched_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[bool]:
    """Tell which tensors among the inputs hold the samples along their first axis."""
    leaves = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    if not leaves[0].ndim:
        raise InputError("the first input is a single number; it must have a batch axis in front")
    return [leaf.ndim > 0 and leaf.shape[0] == leaves[0].shape[0] for leaf in leaves]


def example(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs with exactly two samples: a batch of one would be built into the graph."""
    marks = iter(batched_inputs(args, kwargs))

    def two(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.cat([leaf, leaf])[:2].clone() if next(marks) else leaf.clone()

    example: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(two, (args, dict(kwargs)))
    return example


def check_inputs(x: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword inputs, or raise one clear `InputError`."""
    args, kwargs = tuple(x) if isinstance(x, tuple | list) else (x,), dict(kwargs or {})
    leaves = pytree.tree_flatten_with_path((args, kwargs))[0]
    batch = next((leaf.shape[0] for _, leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim), None)
    for where, leaf in leaves:
        if isinstance(leaf, Tensor):
            _check_tensor(pytree.keystr(where), leaf, batched=leaf.ndim > 0 and leaf.shape[0] == batch)
        elif leaf is not None and not isinstance(leaf, bool | int | float | str):
            raise InputError(
                f"input {pytree.keystr(where)} is a {type(leaf).__name__}; the model takes tensors "
                "(torch.as_tensor helps)"
            )
    return args, kwargs


def _check_tensor(name: str, leaf: Tensor, batched: bool) -> None:
    if leaf.numel() == 0:
        raise InputError(f"input {name} is empty: shape {tuple(leaf.shape)}")
    # An attention mask may be infinite; what carries samples is explained and may not.
    bad = leaf.isnan() if not batched else ~leaf.isfinite()
    if leaf.is_floating_point() and bad.any():
        raise InputError(f"input {name} has {int(bad.sum())} of {leaf.numel()} values that are NaN or infinite")
    if leaf.dtype == torch.uint8 and batched and leaf.ndim > 2:
        raise InputError(
            f"input {name} is an integer image (uint8): convert it with x.float() / 255 and normalise it as the "
            "model expects"
        )


def plain(leaf: Tensor) -> Tensor:
    """Return a tensor that is no part of an autograd tape and can be used outside of inference mode."""
    return leaf.clone() if leaf.is_inference() else leaf.detach()
