"""The rule set ``abslrp``: relevance by positive contributions relative to the output's absolute magnitude.

Vukadin, Afrić, Šilić, Delač: Advancing Attribution-Based Neural Network Explainability through Relative
Absolute Magnitude LRP and Multi-Component Evaluation, ACM TIST 15(3), 2024, doi 10.1145/3649458, Eq. 12::

    R_i = sum_j (x_i w_ij sgn z_j)^+ / D_j * R_j        D_j = |z_j| + delta * mean|z|

with ``sgn 0 = 1``. Relevance is given for the magnitude of an output, so what makes that larger contributes: of a
negative output what is negative. At the class scores the evidence for a class counts, whatever the sign of its score:
``(x_i w_ij)^+``. The paper has that everywhere (``signed=False``) and ``delta = 0``; there the map is chaotic wherever
outputs lie near zero.
"""

from rule_registry.parameters import not_negative
from rule_registry.purposes import SHARP
from rule_registry.registry import define

ABSLRP = "abslrp"
define(
    ABSLRP,
    "positive contributions over the output's absolute magnitude (Vukadin et al. 2024)",
    base="structural",
    parameters={"delta": 1e-2, "signed": True},
    refuse=not_negative("delta"),
    contrast="rest",
    purpose=SHARP,
    version=2,  # 1: by the paper's letter, with a stabiliser of a scale of its own
)
