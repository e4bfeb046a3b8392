"""A plan and its program, ready to run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx

from relprop.assign.concepts import ConceptLayer
from relprop.assign.contrasts import ContrastKind
from relprop.assign.plan import Plan
from relprop.rewrite.checkpoints import Stop, list_stops
from relprop.rewrite.hooks import RelevanceHook
from relprop.rewrite.program import RelevanceProgram
from relprop.rewrite.reinplace import claim
from relprop.run.compiled import CompiledProgram, NotCompiledError

PROGRAMS_KEPT = 8
"""Programs kept per captured graph, and per explainer with hooks: one per rule set, contrast, choice of layers …"""


@dataclass(frozen=True, eq=False)
class PreparedProgram:
    """A plan, its program, and what a run needs to know of both.

    Parameters
    ----------
    plan : Plan
        What was assigned.
    program : RelevanceProgram
        What was rewritten from it.
    layers : mapping of str to list of fx.Node
        The nodes at the outputs of the modules in ``layers``, by path.
    hooks : mapping of fx.Node to list of RelevanceHook
        The hooks at each node.
    contrast : int, "rest", "log-odds", "class" or None
        What the target is set against; ``"class"`` if each sample is against one of its own.
    concepts : tuple of ConceptLayer
        The layers whose channels have flows of their own.

    Attributes
    ----------
    compiled : CompiledProgram
        The program as machine code, which is made at the first call. Threads share it and what it made.
    """

    plan: Plan
    program: RelevanceProgram
    layers: Mapping[str, list[fx.Node]]
    hooks: Mapping[fx.Node, list[RelevanceHook]]
    contrast: ContrastKind
    concepts: tuple[ConceptLayer, ...] = ()
    compiled: CompiledProgram = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compiled", CompiledProgram(self.program))

    @cached_property
    def in_place_program(self) -> RelevanceProgram:
        """What explains: the program, overwriting relevances that nobody but itself reads."""
        if not self.plan.conserves:
            return self.program
        graph, steps = claim(self.program)
        program = RelevanceProgram(self.program, graph, "RelevanceProgram")
        for name, step in steps.items():
            program.add_module(name, step)
        return program

    @cached_property
    def stops(self) -> tuple[Stop, ...]:
        """The nodes that relevance comes to, in their order."""
        return list_stops(self.plan, self.hooks)

    def run_compiled(self, *inputs: Any) -> dict[str, Any]:
        """Run the compiled program.

        Raises
        ------
        NotCompiledError
            If it can't be compiled.
        """
        if self.hooks:
            raise NotCompiledError("hooks are functions to be called with every relevance")
        return self.compiled(*inputs)


_programs_lock = threading.Lock()


def keep_program(programs: dict[Any, PreparedProgram], key: Any, prepared: PreparedProgram) -> PreparedProgram:
    """Keep a program in place of the oldest; return the one that another thread kept meanwhile, if one did."""
    with _programs_lock:
        kept = programs.setdefault(key, prepared)
        while len(programs) > PROGRAMS_KEPT:
            del programs[next(iter(programs))]
    return kept
