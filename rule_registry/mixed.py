"""The rule set ``abslrp-composite``: absLRP where its premise holds, LRP's rules where outputs are signed.

absLRP gives relevance for the magnitude of an output. That is evidence where a rectifier follows: in a convolutional
network. Transformers compute with signed outputs: attention, MLPs, norms, residual streams. There the rules of
``epsilon-plus-residual`` hold, which follow the sign. On VGG and ResNet this is ``abslrp``.
"""

from __future__ import annotations

import torch

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.lrp import activations, bilinear, elementwise, norms
from rule_registry.lrp.attention import DENSE, dense
from rule_registry.lrp.residuals import by_agreement
from rule_registry.operations import products
from rule_registry.operations.norms import NORMS
from rule_registry.parameters import not_negative
from rule_registry.registry import define, register
from rule_registry.select import select

aten = torch.ops.aten
COMPOSITE = "abslrp-composite"

define(
    COMPOSITE,
    "absLRP where outputs are rectified, epsilon and residual gamma where they are signed",
    base=ABSLRP,
    parameters={"dense_gamma": 0.0, "residual_gamma": 1.0, "epsilon": 1e-6, "stabilizer": 1e-6},
    refuse=not_negative("dense_gamma", "residual_gamma", "epsilon", "stabilizer"),
)

register(
    COMPOSITE,
    *(select(op=op, activations=1, scores=False, before_rectifier=False) for op in DENSE),
    rule=dense,
    mass="measured",
    factored=True,
)
register(
    COMPOSITE,
    *(select(op=op, activations=2, scores=False, before_rectifier=False) for op in (aten.add.Tensor, aten.sub.Tensor)),
    rule=by_agreement,
    mass="measured",
    factored=True,
)
register(
    COMPOSITE,
    *(select(op=op, scores=False) for op in (aten.softmax.int, aten._softmax.default)),
    rule=activations.softmax,
    mass="measured",
    factored=True,
)
register(
    COMPOSITE,
    *(select(op=op, activations=2, attention=True) for op in products.FACTORS),
    rule=bilinear.matmul,
    mass="measured",
    factored=True,
)
register(
    COMPOSITE,
    select(op=aten.mul.Tensor, activations=2, attention=True),
    rule=elementwise.mul,
    mass="measured",
    factored=True,
)
register(COMPOSITE, *NORMS, rule=norms.norm, mass="measured", factored=True)
