"""The rule sets ``attnlrp`` and ``cp-lrp``, made for transformers; elsewhere they are ``epsilon``.

Attention relevance weighed by gradients (Chefer et al., Transformer Interpretability Beyond Attention Visualization,
CVPR 2021) is none of them: it multiplies each layer's attention relevance with the attention's gradient, a second pass
backwards, and then the layers' matrices with one another, so its result is no relevance of any operation's inputs and
a rule, which sees one operation, can't state it. From a program's relevances at the softmax (`relprop.Explainer`'s
``hooks``) and autograd's gradients there it can be computed outside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call
from rule_registry.lrp.formula import stabilised
from rule_registry.operations import norms, products
from rule_registry.registry import define, register
from rule_registry.rule import blocks, passes

aten = torch.ops.aten

# Its softmax and its halves for the factors of a product are what ``epsilon`` does everywhere.
define(
    "attnlrp",
    "softmax by first-order expansion, products in halves, norms pass (Achtibat et al. 2024)",
    base="epsilon",
    linear=True,
)
# Proposition 3.4 for a norm as a whole. The authors' library applies it to the division by the deviation alone, and
# epsilon to the mean and the bias of a layer norm, as ``epsilon`` does here; but for that the two agree.
register(
    "attnlrp",
    *norms.NORMS,
    rule=passes,
)

define(
    "cp-lrp",
    "attention is held: relevance takes the path of the values alone (Ali et al. 2022)",
    base="epsilon",
    linear=True,
)
register("cp-lrp", aten.softmax.int, aten._softmax.default, rule=blocks)


@register("cp-lrp", aten.matmul.default, aten.bmm.default)
def values(call: Call, relevance: Tensor, *, stabilizer: float) -> list[Tensor]:
    """Matrix product: of two activations all to the values, ``a_ik v_kj R_ij / z_ij``.

    The attention is the factor that is known never to be negative; where both are, or neither, the left one.
    """
    s = relevance / stabilised(call.result, stabilizer)
    found = products.factors(call, s, lambda x, nonnegative, other, pull: pull(other) * x)
    if len(found) == 2:
        held = 1 if call.site.nonnegative == (False, True) else 0
        found[held] = torch.zeros_like(found[held])
    return found
