"""Rules that are vector-Jacobian products: the gradient, rule sets built on it, and the general rule by Jacobians."""

from rule_registry.gradient import backprop, gradient, jacobians

__all__ = ["backprop", "gradient", "jacobians"]
