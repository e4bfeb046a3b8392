"""Layer-wise relevance propagation for any PyTorch model."""

from relprop.capture import capture
from relprop.check import Report, check
from relprop.conservation import Conservation
from relprop.errors import (
    CaptureError,
    InputError,
    MissingRuleError,
    RelpropError,
    RuleError,
    TargetError,
)
from relprop.explainer import Explainer, explain
from relprop.explanation import Explanation
from relprop.memory import OutOfMemoryError
from relprop.oracle import gradient_oracle_error

__all__ = [
    "CaptureError",
    "Conservation",
    "Explainer",
    "Explanation",
    "InputError",
    "MissingRuleError",
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
