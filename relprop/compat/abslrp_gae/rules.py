"""Rules that are applied to a model: here that is a note beside the model, which stays as it is."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from relprop.errors import RelpropError

_applied: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


class AbsLRPRule:
    """The rules of the authors' code, as the rule set ``abslrp-released`` has them for every architecture."""

    rules = "abslrp-released"

    def apply(self, module: nn.Module) -> None:
        """Note that a model is explained by these rules; nothing of it changes.

        Parameters
        ----------
        module : nn.Module
            The whole model.
        """
        if not isinstance(module, nn.Module):
            raise RelpropError(f"rules are applied to a module, not to a {type(module).__name__}")
        _applied[module] = self.rules


class VGGAbsLRPRule(AbsLRPRule):
    """For VGG; the same as for any other architecture, which the graph shows."""


class ResNetAbsLRPRule(AbsLRPRule):
    """For ResNet; the same as for any other."""


class VisionTransformerAbsLRPRule(AbsLRPRule):
    """For Vision Transformers; the same as for any other."""


def applied_rules(model: nn.Module) -> str:
    """Return the name of the rule set that was applied to a model.

    Raises
    ------
    RelpropError
        If none was.
    """
    if model not in _applied:
        raise RelpropError(
            f"no rule was applied to this {type(model).__name__}: call VGGAbsLRPRule().apply(model), or that of "
            "another architecture, first"
        )
    return _applied[model]
