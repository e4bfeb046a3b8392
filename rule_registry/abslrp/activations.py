"""Operations relevance passes through unchanged: activation functions, softmax, and inert ones."""

from __future__ import annotations

import torch

from rule_registry.abslrp.definition import ABSLRP
from rule_registry.operations.elementwise import ELEMENTWISE
from rule_registry.registry import register
from rule_registry.rule import passes

aten = torch.ops.aten

register(ABSLRP, *ELEMENTWISE, rule=passes)

# To the logit of the same position.
register(ABSLRP, aten.softmax.int, aten._softmax.default, aten.log_softmax.int, rule=passes)

# Under the gradient detaching blocks; here it is a copy.
register(ABSLRP, aten.detach.default, aten.detach_.default, rule=passes)
