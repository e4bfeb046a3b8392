"""The options of `relprop.explain`, `relprop.Explainer` and `relprop.check`, spelled out once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Literal, ParamSpec, TypedDict, TypeVar

import torch
from torch import Tensor

from relprop.assign.contrasts import Contrast
from relprop.errors import near_names
from relprop.rewrite.hooks import Hook
from relprop.run.chunks import BatchSize
from rule_registry import RuleSet

P = ParamSpec("P")
R = TypeVar("R")


class Options(TypedDict, total=False):
    """What an explanation may be made with; see `relprop.Explainer` for what each means."""

    rules: str | RuleSet
    contrast: Contrast
    layers: Sequence[str]
    at: str | None
    output: str | int | None
    batch_size: BatchSize
    hooks: Mapping[str, Hook] | None
    compile: bool
    probability: Literal["softmax", "sigmoid", "output"] | None
    channel_axis: int | None
    batched: Sequence[str] | None


DEFAULTS: Options = {
    "rules": "abslrp",
    "contrast": "default",
    "layers": (),
    "at": None,
    "output": None,
    "batch_size": None,
    "hooks": None,
    "compile": False,
    "probability": None,
    "channel_axis": None,
    "batched": None,
}


def spell_options(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that ends in ``**options`` show each of them, with its default, and refuse any other name."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    listed = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=Options.__annotations__[name])
        for name, value in DEFAULTS.items()
    ]

    @wraps(function)
    def spelled(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in DEFAULTS and name not in signature.parameters:
                near = near_names(name, [*DEFAULTS, *signature.parameters])
                raise TypeError(f"{function.__name__}() has no option {name!r}{near}")
        return function(*args, **kwargs)

    spelled.__signature__ = signature.replace(parameters=[*own, *listed])  # type: ignore[attr-defined]
    return spelled


def check_options(options: Options) -> None:
    """Raise an error that names the option whose value can't be.

    Raises
    ------
    ValueError, TypeError
    """
    batch_size, contrast, hooks = options["batch_size"], options["contrast"], options["hooks"]
    if not (batch_size in (None, "auto") or (isinstance(batch_size, int) and batch_size >= 1)):
        raise ValueError(f'batch_size must be at least 1, or "auto" or None, not {batch_size!r}')
    if options["probability"] not in (None, "softmax", "sigmoid", "output"):
        raise ValueError(f'probability must be "softmax", "sigmoid", "output" or None, not {options["probability"]!r}')
    if options["channel_axis"] not in (None, 1, 2, 3, -1, -2, -3):
        raise ValueError(
            f"channel_axis must be an axis of a picture behind that of the samples, not {options['channel_axis']!r}"
        )
    if isinstance(options["batched"], str) or not isinstance(options["batched"], Sequence | None):
        raise TypeError(f"batched must be a sequence of names of inputs, not {options['batched']!r}")
    if options["compile"] and batch_size == "auto":
        raise ValueError('compile=True compiles for one number of samples at once: name it in place of "auto"')
    if not _may_be_contrast(contrast):
        raise ValueError(
            'contrast must be "rest", "log-odds", "default", None, a class index or one class index per sample, not '
            f"{contrast!r}"
        )
    if not isinstance(hooks, Mapping | None):
        raise TypeError(f"hooks must be a mapping from module paths to functions, not {hooks!r}")
    for pattern, hook in (hooks or {}).items():
        if not callable(hook):
            raise TypeError(f"the hook at {pattern!r} must be a function of (info, relevance), not {hook!r}")
    if not isinstance(options["rules"], str | RuleSet):
        rules = options["rules"]
        raise TypeError(f"rules must be the name of a rule set, or what rule_registry.get returns, not {rules!r}")


def _may_be_contrast(contrast: object) -> bool:
    if contrast is None or isinstance(contrast, str):
        return contrast in ("rest", "log-odds", "default", None)
    if isinstance(contrast, Tensor):
        return not (contrast.is_floating_point() or contrast.is_complex() or contrast.dtype == torch.bool)
    values = contrast if isinstance(contrast, Sequence) else (contrast,)
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
