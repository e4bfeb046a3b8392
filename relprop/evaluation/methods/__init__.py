"""Attribution methods for `relprop.evaluate`: by name, and adapters for what other libraries have.

The evaluator takes any callable ``(x, target) -> relevance``; these are ones. None of them changes the user's model.
"""

from relprop.evaluation.methods.adapters.attention_rollout import AttentionRollout
from relprop.evaluation.methods.adapters.captum import CaptumMethod
from relprop.evaluation.methods.adapters.grad_cam import GradCamMethod
from relprop.evaluation.methods.adapters.zennit import ZennitMethod
from relprop.evaluation.methods.base import Function, Method, MethodError, Request
from relprop.evaluation.methods.controls import CONTROLS, Control
from relprop.evaluation.methods.listing import ListedMethod, list_methods
from relprop.evaluation.methods.named import MethodContext, check_name, make_methods, split_names
from relprop.evaluation.methods.precomputed import Precomputed
from relprop.evaluation.methods.relprop_rules import RelpropMethod

__all__ = [
    "CONTROLS",
    "AttentionRollout",
    "CaptumMethod",
    "Control",
    "Function",
    "GradCamMethod",
    "ListedMethod",
    "Method",
    "MethodContext",
    "MethodError",
    "Precomputed",
    "RelpropMethod",
    "Request",
    "ZennitMethod",
    "check_name",
    "list_methods",
    "make_methods",
    "split_names",
]
