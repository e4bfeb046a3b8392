"""Layer-wise relevance propagation as the field has it: relevance divided in proportion to contributions.

Every rule is one formula (`rule_registry.lrp.formula`): modify the inputs, weights and bias of a layer, divide the
relevance by its modified output, multiply with the transposed modified weight and the modified input::

    R_i = sum_j  x'_i w'_ij / (z'_j + epsilon sign z'_j) * R_j        z'_j = sum_k x'_k w'_kj + b'_j

The rule sets decompose the output that is explained, so that is their seed. Relevance has both signs, and what a bias
or a stabiliser stands for is absorbed: mass is measured and not rescaled.
"""

import rule_registry.moves  # noqa: F401  # the base must be there
from rule_registry.parameters import not_negative
from rule_registry.registry import define

define(
    "epsilon",
    "shares in proportion to contributions, stabilised (Bach et al. 2015)",
    base="structural",
    parameters={"epsilon": 1e-6, "stabilizer": 1e-6},
    refuse=not_negative("epsilon", "stabilizer"),
    seed="output",
    conserves=False,
    measures=True,
)

from rule_registry.lrp import attention, composites, layers, others, residuals  # noqa: E402

__all__ = ["attention", "composites", "layers", "others", "residuals"]
