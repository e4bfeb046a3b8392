"""What of a model's output is explained: one of several tensors, or any number per sample that a target makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from relprop.errors import CaptureError, TargetError


def explained(returned: Any, target: Callable[[Any], Any] | None, output: str | int | None) -> Any:
    """Return the output that is meant, where one is named, and what the target makes of it, where there is one.

    Raises
    ------
    CaptureError
        If there is no such output.
    TargetError
        If the target fails on it.
    """
    chosen = returned if output is None else choose_output(returned, output)[0]
    if target is None:
        return chosen
    try:
        return target(chosen)
    except Exception as error:  # whatever the user's function raises
        what = tuple(chosen.shape) if isinstance(chosen, Tensor) else _contents(chosen)
        raise TargetError(
            f"the target fails on the model's output, a {type(chosen).__name__} of {what}: {type(error).__name__}: "
            f"{error}. A capture runs it on two samples: what it needs for each sample must be an input of the model"
        ) from error


def choose_output(returned: Any, output: str | int | None) -> tuple[Tensor, int]:
    """Find the output that is meant, by its key, index or name, and its position among all that a model returns.

    Raises
    ------
    CaptureError
        If it isn't there, or if none is named and there is not just one tensor.
    """
    if output is None:
        if isinstance(returned, Tensor):
            return returned, 0
        raise CaptureError(
            f"the model returns a {type(returned).__name__}, not a tensor; say which of its outputs is meant with "
            f"<output>, or give target a function of the whole output. There are: {_contents(returned)}",
            output="...",
        )
    for path, value, k in tensors_of(returned):
        if len(path) == 1 and output == path[0]:
            return value, k
    raise CaptureError(f"the model has no output {output!r}; there are: {_contents(returned)}")


def tensors_of(returned: Any) -> list[tuple[tuple[Any, ...], Tensor, int]]:
    """Return every tensor with its path of keys, and its position among all leaves."""
    if is_dataclass(returned) and pytree.tree_is_leaf(returned):  # one that torch was not told of
        returned = {field.name: getattr(returned, field.name) for field in fields(returned)}
    pairs, _ = pytree.tree_flatten_with_path(returned)
    return [(tuple(map(_key, path)), value, k) for k, (path, value) in enumerate(pairs) if isinstance(value, Tensor)]


def _key(entry: Any) -> Any:
    return getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", None)))


def _contents(returned: Any) -> str:
    rows = [f"{'.'.join(map(str, path))} {tuple(value.shape)}" for path, value, _ in tensors_of(returned)]
    return ", ".join(rows) or "no tensors at all"
