"""Rule sets that are built from the rules for layers: one rule for all, or another for each kind of layer.

The composites are those of Kohlbrenner et al., Towards Best Practice in Explaining Neural Network Decisions with LRP,
IJCNN 2020 (epsilon for dense layers, alpha-beta or z+ for convolutions, flat for the first layer), and Montavon et al.,
Layer-Wise Relevance Propagation: An Overview, 2019, section 10.3 (epsilon, gamma, and z^B at the input).
"""

from __future__ import annotations

import torch

from rule_registry.lrp.layers import alpha_beta, excitation, flat, gamma, w_squared, wrong_alpha_beta, z_box
from rule_registry.lrp.residuals import by_positive_part
from rule_registry.operations.linear_maps import CONVOLUTIONS, LAYERS
from rule_registry.parameters import not_negative, wrong_bounds
from rule_registry.purposes import COMPOSITES
from rule_registry.registry import define, register
from rule_registry.select import select

aten = torch.ops.aten

LOWEST, HIGHEST = (-2.118, -2.036, -1.804), (2.249, 2.429, 2.640)
"""What black and white become where pictures are normalised with ImageNet's mean and deviation."""

define(
    "lrp-0",
    "shares in proportion to contributions (Bach et al. 2015)",
    base="epsilon",
    fixed={"epsilon": 0.0, "stabilizer": 0.0},
)

define(
    "gamma",
    "positive contributions are favoured (Montavon et al. 2019)",
    base="epsilon",
    parameters={"gamma": 0.25},
    refuse=not_negative("gamma"),
    linear=True,
)
register("gamma", *LAYERS, rule=gamma)

define(
    "alpha-beta",
    "positive and negative contributions apart (Bach et al. 2015)",
    base="epsilon",
    parameters={"alpha": 2.0, "beta": 1.0},
    refuse=wrong_alpha_beta,
    linear=True,
)
register("alpha-beta", *LAYERS, rule=alpha_beta)

define(
    "z-plus",
    "positive contributions alone (Montavon et al. 2017)",
    base="alpha-beta",
    fixed={"alpha": 1.0, "beta": 0.0},
)

define("flat", "equal shares for all inputs of a neuron (Lapuschkin et al. 2019)", base="epsilon", linear=True)
register("flat", *LAYERS, rule=flat)

define("w-squared", "shares in proportion to squared weights (Montavon et al. 2017)", base="epsilon", linear=True)
register("w-squared", *LAYERS, rule=w_squared)

define(
    "z-box",
    "z+, and z^B at the first layer, for inputs between bounds (Montavon et al. 2017)",
    base="z-plus",
    parameters={"low": LOWEST, "high": HIGHEST},
    refuse=wrong_bounds,
    linear=True,
)
register("z-box", *(select(op=op, layer="first") for op in LAYERS), rule=z_box)

define(
    "epsilon-plus",
    "epsilon for dense layers, z+ for convolutions",
    base="epsilon",
    purpose=COMPOSITES,
    fixed={"alpha": 1.0, "beta": 0.0},
    linear=True,
)
register("epsilon-plus", *CONVOLUTIONS, rule=alpha_beta)

define(
    "epsilon-plus-flat",
    "epsilon for dense layers, z+ for convolutions, flat for the first layer",
    base="epsilon-plus",
    linear=True,
)
register("epsilon-plus-flat", *(select(op=op, layer="first") for op in LAYERS), rule=flat)

define(
    "epsilon-alpha2-beta1",
    "epsilon for dense layers, alpha 2 beta 1 for convolutions",
    base="epsilon",
    purpose=COMPOSITES,
    fixed={"alpha": 2.0, "beta": 1.0},
    linear=True,
)
register("epsilon-alpha2-beta1", *CONVOLUTIONS, rule=alpha_beta)

define(
    "epsilon-alpha2-beta1-flat",
    "epsilon for dense layers, alpha 2 beta 1 for convolutions, flat for the first layer",
    base="epsilon-alpha2-beta1",
    linear=True,
)
register("epsilon-alpha2-beta1-flat", *(select(op=op, layer="first") for op in LAYERS), rule=flat)

define(
    "epsilon-gamma-box",
    "epsilon for dense layers, gamma for convolutions, z^B for the first one",
    base="epsilon",
    purpose=COMPOSITES,
    parameters={"gamma": 0.25, "low": LOWEST, "high": HIGHEST},
    refuse=lambda parameters: not_negative("gamma")(parameters) or wrong_bounds(parameters),
    linear=True,
)
register("epsilon-gamma-box", *CONVOLUTIONS, rule=gamma)
register("epsilon-gamma-box", *(select(op=op, layer="first") for op in CONVOLUTIONS), rule=z_box)

# Probabilities that sum to one from the first winner on, so one is the seed.
define("excitation-backprop", "probabilities of winning (Zhang et al. 2016)", base="epsilon", seed="one", linear=True)
register("excitation-backprop", *LAYERS, rule=excitation)

register("excitation-backprop", aten.add.Tensor, rule=by_positive_part)
