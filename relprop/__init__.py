"""Layer-wise relevance propagation for any PyTorch model."""

from relprop.capture import capture
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

__all__ = [
    "CaptureError",
    "Conservation",
    "Explainer",
    "Explanation",
    "InputError",
    "MissingRuleError",
    "RelpropError",
    "RuleError",
    "TargetError",
    "capture",
    "explain",
]
