"""The rule set ``epsilon``, on which all LRP rule sets are built: relevance in proportion to contributions.

Every rule is one formula (`rule_registry.lrp.formula`): modify the inputs, weights and bias of a layer, divide the
relevance by its modified output, multiply with the transposed modified weight and the modified input::

    R_i = sum_j  x'_i w'_ij / (z'_j + epsilon sign z'_j) * R_j        z'_j = sum_k x'_k w'_kj + b'_j

The rule sets decompose the output that is explained, so that is their seed. Relevance has both signs, and what a bias
or a stabiliser stands for is absorbed: mass is measured and not rescaled.

Operations without a weight follow the epsilon rule with their contributions ``x_i dz_j/dx_i``; a function of one entry
alone hands all relevance to that entry. The field has no agreed rule for some of them; what ``epsilon`` states holds in
every rule set built on it.
"""

from rule_registry.parameters import not_negative
from rule_registry.purposes import LRP
from rule_registry.registry import define

EPSILON = "epsilon"
define(
    EPSILON,
    "shares in proportion to contributions, stabilised (Bach et al. 2015)",
    base="structural",
    parameters={"epsilon": 1e-6, "stabilizer": 1e-6},
    refuse=not_negative("epsilon", "stabilizer"),
    linear=True,
    seed="output",
    mass="measured",
    purpose=LRP,
)
