"""absLRP: the rule set ``abslrp`` by families of operations, and ``abslrp-released``, the authors' code."""

from rule_registry.abslrp import (
    activations,
    additions,
    alternatives,
    bilinear,
    elementwise,
    linear,
    norms,
    pooling,
    reductions,
    released,
    resampling,
    sampling,
    similarity,
)

__all__ = [
    "activations",
    "additions",
    "alternatives",
    "bilinear",
    "elementwise",
    "linear",
    "norms",
    "pooling",
    "reductions",
    "released",
    "resampling",
    "sampling",
    "similarity",
]
