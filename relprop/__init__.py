"""Layer-wise relevance propagation for any PyTorch model.

Names are imported when they are first asked for: what reads results needs no PyTorch, and the command line starts at
once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relprop.analysis import Results
    from relprop.capture import capture
    from relprop.check import Report, check
    from relprop.conservation import Conservation
    from relprop.errors import (
        CaptureError,
        HookError,
        InputError,
        MissingRuleError,
        RelpropError,
        RelpropWarning,
        RuleError,
        TargetError,
    )
    from relprop.evaluation import Evaluation, evaluate
    from relprop.explainer import Explainer, explain
    from relprop.explanation import Explanation
    from relprop.hooks import NodeInfo
    from relprop.memory import OutOfMemoryError
    from relprop.oracle import gradient_oracle_error

__all__ = [
    "CaptureError",
    "Conservation",
    "Evaluation",
    "Explainer",
    "Explanation",
    "HookError",
    "InputError",
    "MissingRuleError",
    "NodeInfo",
    "OutOfMemoryError",
    "RelpropError",
    "RelpropWarning",
    "Report",
    "Results",
    "RuleError",
    "TargetError",
    "capture",
    "check",
    "evaluate",
    "explain",
    "gradient_oracle_error",
]

_NAMES = {
    "analysis": "Results",
    "capture": "capture",
    "check": "Report check",
    "conservation": "Conservation",
    "errors": "CaptureError HookError InputError MissingRuleError RelpropError RelpropWarning RuleError TargetError",
    "evaluation": "Evaluation evaluate",
    "explainer": "Explainer explain",
    "explanation": "Explanation",
    "hooks": "NodeInfo",
    "memory": "OutOfMemoryError",
    "oracle": "gradient_oracle_error",
}
_HOME = {name: f"relprop.{module}" for module, names in _NAMES.items() for name in names.split()}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    try:
        value = getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"relprop.{name} needs PyTorch, which is not installed: pip install torch. "
            "Results of relprop.evaluate are read without it",
            name="torch",
        ) from error
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    """List the public names before they are imported, too."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps the functions ``relprop.capture`` and ``relprop.check`` above the modules they are defined in.

    The import system binds a submodule in its package as soon as anybody has imported it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
