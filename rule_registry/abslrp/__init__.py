"""absLRP: the rule set ``abslrp`` by families of operations, and rule sets of the authors' two public codes."""

from rule_registry.abslrp import (
    activations,
    additions,
    alternatives,
    bilinear,
    elementwise,
    linear,
    norms,
    paper,
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
    "paper",
    "pooling",
    "reductions",
    "released",
    "resampling",
    "sampling",
    "similarity",
]
