"""What the evaluator needs of a method, whoever wrote it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from relprop.errors import RelpropError
from relprop.evaluation.data.datasets import describe_function
from relprop.gae.protocols import maps_of


class MethodError(RelpropError, ValueError):
    """An attribution method that is unknown, or can't be used with the model or for these maps."""


@dataclass(frozen=True, eq=False)
class Request:
    """Pictures whose maps are wanted.

    Parameters
    ----------
    x : Tensor
        ``(B, C, H, W)``, normalised as the model expects.
    target : Tensor
        Class of each, ``(B,)``.
    index : tuple of int
        Of which sample of the data set each is.
    state : tuple of int
        What of the sample each shows, see `relprop.gae.states.MAPS_PER_SAMPLE`.
    """

    x: Tensor
    target: Tensor
    index: tuple[int, ...]
    state: tuple[int, ...]


class Method(ABC):
    """An attribution method under evaluation.

    Attributes
    ----------
    config
        All that its maps depend on beside the model, for the file; what JSON can say.
    description
        In words.
    pictures_only
        Why it has maps of the pictures alone, not of masked states and mosaics; empty where it has all.
    """

    config: Mapping[str, Any]
    description: str = ""
    pictures_only: str = ""

    def prepare(self, x: Tensor) -> None:  # noqa: B027 - most have nothing to prepare
        """Find out before the run, on pictures ``(B, C, H, W)``, whether the method can be used at all."""

    @abstractmethod
    def maps(self, request: Request) -> Tensor:
        """Return relevance ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``."""


class Function(Method):
    """Any callable ``(x, target) -> relevance``.

    The file gets its attributes ``config`` (a mapping that JSON can hold) and ``description``, else its name.

    Parameters
    ----------
    function : callable
        Takes pictures ``(B, C, H, W)`` and classes ``(B,)``. Returns maps as `Method.maps` does, or what has them as
        ``relevance``.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        self.function = function

    @property
    def config(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The function's own ``config``, else its name."""
        kind = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return getattr(self.function, "config", None) or {"callable": f"{kind.__module__}.{kind.__qualname__}"}

    @property
    def description(self) -> str:  # type: ignore[override]
        """The function's own ``description``."""
        return str(getattr(self.function, "description", ""))

    def maps(self, request: Request) -> Tensor:
        """Call the function, which returns ``(B, C, H, W)``, ``(B, 1, H, W)`` or ``(B, H, W)``."""
        return maps_of(self.function, request.x, request.target)

    def prepare(self, x: Tensor) -> None:
        """Let an adapter find out whether it can be used for pictures ``(B, C, H, W)``."""
        prepare = getattr(self.function, "prepare", None)
        if callable(prepare):
            prepare(x)


def plain(value: Any) -> Any:
    """Describe options in JSON: arrays by their shape and a hash, functions by their name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        return {"shape": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    return describe_function(value)
