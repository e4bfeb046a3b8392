"""From an exported program to a functional one, in the vocabulary that rules are written for."""

from __future__ import annotations

from torch._ops import OpOverload
from torch.export import ExportedProgram

from relprop.errors import CaptureError, RelpropError
from relprop.tracing.causes import cause_of
from relprop.tracing.lowering.decompositions import composites, decomposition_table
from relprop.tracing.lowering.expand import expand
from relprop.tracing.lowering.program import Program, as_program
from relprop.tracing.lowering.views import copy_before_views


def lower(program: ExportedProgram, keep: frozenset[OpOverload]) -> tuple[Program, frozenset[OpOverload]]:
    """Make an exported program functional, in the vocabulary that rules are written for.

    A program that overwrites nothing is functional, and only its composite operations are traced. Torch traces any
    other as a whole.

    Parameters
    ----------
    program : ExportedProgram
        As exported.
    keep : frozenset of OpOverload
        Operations that torch composes of others and that stay whole.

    Returns
    -------
    Program, frozenset of OpOverload
        The functional program, and the composite operations that were met, kept or not.

    Raises
    ------
    CaptureError
        If it can't be.
    """
    try:
        return _lower(program, keep)
    except CaptureError:
        if not copy_before_views(program.graph):
            raise
        program.graph_module.recompile()
        return _lower(program, keep)


def _lower(program: ExportedProgram, keep: frozenset[OpOverload]) -> tuple[Program, frozenset[OpOverload]]:
    if (expanded := expand(program, keep)) is not None:
        graph, met = expanded
        return as_program(program, graph), met
    lowered, met = lower_by_torch(program, keep)
    return as_program(lowered), met


def lower_by_torch(
    program: ExportedProgram, keep: frozenset[OpOverload]
) -> tuple[ExportedProgram, frozenset[OpOverload]]:
    """Make any exported program functional by ``run_decompositions``, see `lower`."""
    try:
        outer = composites(program)
        lowered: ExportedProgram = program.run_decompositions(dict(decomposition_table(program, outer - keep)))
        inner = composites(lowered)  # what others were composed of
        if inner - keep:
            lowered = lowered.run_decompositions(dict(decomposition_table(lowered, inner - keep)))
    except RelpropError:  # of a decomposition
        raise
    except Exception as error:  # as above
        raise CaptureError(
            f"the exported graph can't be made functional: {cause_of(error)}\n"
            "The usual reason is a forward that changes a tensor in place which is an attribute of its module: make it "
            "a buffer with register_buffer."
        ) from error
    return lowered, outer | inner
