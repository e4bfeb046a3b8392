"""From an exported program to a functional one, in the vocabulary that rules are written for."""

from __future__ import annotations

from torch.export import ExportedProgram

from relprop.errors import CaptureError, RelpropError, first_line
from relprop.tracing.lowering.decompositions import composites, spelled_out


def lower(program: ExportedProgram) -> ExportedProgram:
    """Make an exported program functional, in the vocabulary that rules are written for.

    Raises
    ------
    CaptureError
        If it can't be.
    """
    try:
        lowered: ExportedProgram = program.run_decompositions(dict(spelled_out(program)))
        if composites(lowered):  # what others were composed of
            lowered = lowered.run_decompositions(dict(spelled_out(lowered)))
    except RelpropError:  # of a decomposition
        raise
    except Exception as error:  # as above
        raise CaptureError(
            f"the exported graph can't be made functional: {first_line(error)}\n"
            "The usual reason is a forward that changes a tensor in place which is an attribute of its module: make it "
            "a buffer with register_buffer."
        ) from error
    return lowered
