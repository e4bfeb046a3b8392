"""From an exported program to a functional one, in the vocabulary that rules are written for."""

from __future__ import annotations

from torch._ops import OpOverload
from torch.export import ExportedProgram

from relprop.errors import CaptureError, RelpropError
from relprop.tracing.causes import cause_of
from relprop.tracing.lowering.decompositions import composites, spelled_out


def lower(program: ExportedProgram, keep: frozenset[OpOverload]) -> tuple[ExportedProgram, frozenset[OpOverload]]:
    """Make an exported program functional, in the vocabulary that rules are written for.

    Parameters
    ----------
    program : ExportedProgram
        As exported.
    keep : frozenset of OpOverload
        Operations that torch composes of others and that stay whole.

    Returns
    -------
    ExportedProgram, frozenset of OpOverload
        The functional program, and the composite operations that were met, kept or not.

    Raises
    ------
    CaptureError
        If it can't be.
    """
    try:
        outer = composites(program)
        lowered: ExportedProgram = program.run_decompositions(dict(spelled_out(program, outer - keep)))
        inner = composites(lowered)  # what others were composed of
        if inner - keep:
            lowered = lowered.run_decompositions(dict(spelled_out(lowered, inner - keep)))
    except RelpropError:  # of a decomposition
        raise
    except Exception as error:  # as above
        raise CaptureError(
            f"the exported graph can't be made functional: {cause_of(error)}\n"
            "The usual reason is a forward that changes a tensor in place which is an attribute of its module: make it "
            "a buffer with register_buffer."
        ) from error
    return lowered, outer | inner
