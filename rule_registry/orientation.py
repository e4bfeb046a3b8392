"""The sign with which contributions to an output count: absLRP's ``(c sgn z)^+``.

Relevance is given for the magnitude of an output. Where that is negative, the negative contributions make it larger. At
the class scores it is given for the score itself: there a site says which sign counts, whatever that of the output is.
Where relevance arrives only at outputs that are not negative there is nothing to orient, and no rule pays for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rule_registry.call import Call, denominator


def orientation(call: Call, signed: bool) -> Tensor | None:
    """Return 1 or -1 for each output, shaped like it; None where all are 1.

    Parameters
    ----------
    call : Call
        Of an operation with contributions to its first output.
    signed : bool
        Whether contributions are oriented at all; the paper's letter is that they are not.
    """
    if not signed or call.site.evidence > 0 or (call.site.rectified and not call.site.evidence):
        return None
    z = call.result
    if call.site.evidence < 0:
        return torch.full_like(z, -1.0)
    return torch.copysign(z.new_ones(()), z + 0.0)  # the sum makes plus zero of minus zero


def oriented_denominator(call: Call, delta: float, signed: bool) -> Tensor:
    """Return the denominator times the orientation, for contributions that are entries shaped like the output.

    A contribution divided by it is positive where it counts.
    """
    sign, below = orientation(call, signed), denominator(call, delta)
    return below if sign is None else below.mul_(sign)


def halves(s: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Split s, ``(S, *output)``: the part where positive contributions count, and that where negative ones do."""
    raised = s * sign.clamp(min=0)  # choosing by a condition takes longer (benchmarks choices: halves)
    return raised, s - raised
