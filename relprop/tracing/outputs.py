"""Which part of a model's output is explained: one of several tensors, or the number that a target makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
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
    """Find the output ``(B, ...)`` that is meant, by key, index or name, and its position among all that are returned.

    Inside of another it is named by the way there, as ``"1.scores"``; what holds one tensor alone stands for it.

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
    found = tensors_of(returned)
    for path, value, k in found:
        if (len(path) == 1 and output == path[0]) or str(output) == _dotted(path):
            return value, k
    inside = [(value, k) for path, value, k in found if _dotted(path).startswith(f"{output}.")]
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise CaptureError(
            f"output {output!r} of the model holds {len(inside)} tensors: name one of them with <output>. There are: "
            f"{_contents(returned)}",
            output="...",
        )
    raise CaptureError(f"the model has no output {output!r}; there are: {_contents(returned)}")


def tensors_of(returned: Any) -> list[tuple[tuple[Any, ...], Tensor, int]]:
    """Return every tensor, of any shape, with its path of keys, and its position among all leaves."""
    pairs = enumerate(_leaves(returned, ()))
    return [(path, value, k) for k, (path, value) in pairs if isinstance(value, Tensor)]


def _leaves(returned: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield all leaves with their paths, also those of objects that torch does not register, as dataclasses."""
    if not pytree.tree_is_leaf(returned):
        for keys, value in pytree.tree_flatten_with_path(returned)[0]:
            yield from _leaves(value, (*path, *map(_key, keys)))
        return
    inside = {} if isinstance(returned, Tensor | nn.Module | type) else _attributes(returned)
    if not inside:
        yield path, returned
    for name, value in inside.items():
        yield from _leaves(value, (*path, name))


def _attributes(returned: Any) -> dict[str, Any]:
    """Return the values that an object holds under names; none where it is no such object."""
    if is_dataclass(returned):
        return {field.name: getattr(returned, field.name) for field in fields(returned)}
    held: dict[str, Any] = getattr(returned, "__dict__", {})
    return held if any(isinstance(value, Tensor) for value in pytree.tree_leaves(held)) else {}


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _key(entry: Any) -> Any:
    return getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", None)))


def output_names(returned: Any) -> list[str]:
    """Return the names of all outputs that are tensors; none where there is but one, without a name."""
    return [_dotted(path) for path, _, _ in tensors_of(returned) if path]


def _contents(returned: Any) -> str:
    rows = [f"{_dotted(path)} {tuple(value.shape)}" for path, value, _ in tensors_of(returned)]
    return ", ".join(rows) or "no tensors at all"
