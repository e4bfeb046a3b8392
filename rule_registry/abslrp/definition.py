"""The rule set ``abslrp``: relevance by positive contributions relative to the output's absolute magnitude.

Vukadin, Afrić, Šilić, Delač: Advancing Attribution-Based Neural Network Explainability through Relative
Absolute Magnitude LRP and Multi-Component Evaluation, ACM TIST 15(3), 2024, doi 10.1145/3649458, Eq. 12::

    R_i = sum_j (x_i w_ij)^+ / D_j * R_j        D_j = |z_j| + 1e-9 + delta * mean|z|

The paper has ``delta = 0``; there the map is chaotic wherever outputs lie near zero.
"""

from rule_registry.parameters import not_negative
from rule_registry.registry import define

ABSLRP = "abslrp"
define(
    ABSLRP,
    "positive contributions over the output's absolute magnitude (Vukadin et al. 2024)",
    base="structural",
    parameters={"delta": 1e-2},
    refuse=not_negative("delta"),
    contrast="rest",
)
