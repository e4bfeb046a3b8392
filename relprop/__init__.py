"""Layer-wise relevance propagation for any PyTorch model.

Names are imported at their first use. So reading results needs no PyTorch, and the command line starts at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relprop.analysis import Results
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
    from relprop.explanation.explanation import Explanation
    from relprop.pages.report import report
    from relprop.rewrite.hooks import NodeInfo
    from relprop.run.conservation import Conservation
    from relprop.run.memory import OutOfMemoryError
    from relprop.tracing.capture import capture
    from relprop.tracing.disk.folder import cache
    from relprop.verification.check import check
    from relprop.verification.oracle import gradient_oracle_error
    from relprop.verification.report import Report

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
    "cache",
    "capture",
    "check",
    "evaluate",
    "explain",
    "gradient_oracle_error",
    "report",
]

_HOMES = {
    "CaptureError": "relprop.errors",
    "Conservation": "relprop.run.conservation",
    "Evaluation": "relprop.evaluation",
    "Explainer": "relprop.explainer",
    "Explanation": "relprop.explanation.explanation",
    "HookError": "relprop.errors",
    "InputError": "relprop.errors",
    "MissingRuleError": "relprop.errors",
    "NodeInfo": "relprop.rewrite.hooks",
    "OutOfMemoryError": "relprop.run.memory",
    "RelpropError": "relprop.errors",
    "RelpropWarning": "relprop.errors",
    "Report": "relprop.verification.report",
    "Results": "relprop.analysis",
    "RuleError": "relprop.errors",
    "TargetError": "relprop.errors",
    "cache": "relprop.tracing.disk.folder",
    "capture": "relprop.tracing.capture",
    "check": "relprop.verification.check",
    "evaluate": "relprop.evaluation",
    "explain": "relprop.explainer",
    "gradient_oracle_error": "relprop.verification.oracle",
    "report": "relprop.pages.report",
}
"""The module of each public name."""
_PACKAGES = ("concepts", "gae", "metrics", "models", "store")
"""Packages for users, which are attributes without an import of their own."""


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name == "__version__":
        return import_module("relprop.versions").version("relprop")
    if name in _PACKAGES:
        return import_module(f"relprop.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    try:
        value = getattr(import_module(_HOMES[name]), name)
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
    return sorted({*globals(), *__all__, *_PACKAGES, "__version__"})
