"""Attribution methods for `relprop.evaluate`: by name, and adapters for what other libraries have.

The evaluator takes any callable ``(x, target) -> relevance``; these are ones. None of them changes the user's model.
"""

from relprop.evaluation.methods.base import Asked, Function, Method, MethodError
from relprop.evaluation.methods.captum import CaptumMethod
from relprop.evaluation.methods.controls import CONTROLS, Control
from relprop.evaluation.methods.grad_cam import GradCamMethod
from relprop.evaluation.methods.names import Setting, check_name, make_methods, split_names
from relprop.evaluation.methods.precomputed import Precomputed
from relprop.evaluation.methods.relevance import Relevance
from relprop.evaluation.methods.rollout import AttentionRollout
from relprop.evaluation.methods.zennit import ZennitMethod

__all__ = [
    "CONTROLS",
    "Asked",
    "AttentionRollout",
    "CaptumMethod",
    "Control",
    "Function",
    "GradCamMethod",
    "Method",
    "MethodError",
    "Precomputed",
    "Relevance",
    "Setting",
    "ZennitMethod",
    "check_name",
    "make_methods",
    "split_names",
]
