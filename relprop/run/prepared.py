"""A plan and its program, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from relprop.assign.plan import Plan
from relprop.assign.targets import Against
from relprop.rewrite.checkpoints import Stop, list_stops
from relprop.rewrite.hooks import RelevanceHook
from relprop.rewrite.program import RelevanceProgram
from relprop.rewrite.reinplace import claim
from relprop.run.compiled import CompiledProgram


@dataclass(frozen=True)
class Ready:
    """A plan, its program, the nodes of the layers that were asked for, the hooks at nodes, and the contrast."""

    plan: Plan
    program: RelevanceProgram
    layers: Mapping[str, list[fx.Node]]
    hooks: Mapping[fx.Node, list[RelevanceHook]]
    contrast: Against

    @cached_property
    def running(self) -> RelevanceProgram:
        """What explains: the program, overwriting relevances that nobody but itself reads."""
        if not self.plan.rules.conserves:
            return self.program
        graph, steps = claim(self.program)
        program = RelevanceProgram(self.program, graph, "RelevanceProgram")
        for name, step in steps.items():
            program.add_module(name, step)
        return program

    @cached_property
    def compiled(self) -> CompiledProgram:
        """The program as machine code, which is made at the first call."""
        return CompiledProgram(self.program)

    @cached_property
    def stops(self) -> tuple[Stop, ...]:
        """The nodes that relevance comes to, in their order."""
        return list_stops(self.plan, self.hooks)
