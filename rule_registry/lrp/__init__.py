"""LRP as the field has it: the rule set ``epsilon`` by families of operations, and the sets that are built on it."""

from rule_registry.lrp import (
    activations,
    additions,
    attention,
    bilinear,
    composites,
    elementwise,
    layers,
    norms,
    pooling,
    reductions,
    resampling,
    residuals,
    sampling,
    similarity,
)

__all__ = [
    "activations",
    "additions",
    "attention",
    "bilinear",
    "composites",
    "elementwise",
    "layers",
    "norms",
    "pooling",
    "reductions",
    "resampling",
    "residuals",
    "sampling",
    "similarity",
]
