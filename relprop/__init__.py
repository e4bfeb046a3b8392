"""Layer-wise relevance propagation for any PyTorch model."""

from relprop.capture import capture
from relprop.check import Report, check
from relprop.conservation import Conservation
from relprop.errors import (
    CaptureError,
    HookError,
    InputError,
    MissingRuleError,
    RelpropError,
    RuleError,
    TargetError,
)
from relprop.explainer import Explainer, explain
from relprop.explanation import Explanation
from relprop.hooks import NodeInfo
from relprop.memory import OutOfMemoryError
from relprop.oracle import gradient_oracle_error

__all__ = [
    "CaptureError",
    "Conservation",
    "Explainer",
    "Explanation",
    "HookError",
    "InputError",
    "MissingRuleError",
    "NodeInfo",
    "OutOfMemoryError",
    "RelpropError",
    "Report",
    "RuleError",
    "TargetError",
    "capture",
    "check",
    "explain",
    "gradient_oracle_error",
]
