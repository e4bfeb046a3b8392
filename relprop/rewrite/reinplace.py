"""Finding in a program which relevances are read for the last time, so that who reads them may overwrite them."""

from __future__ import annotations

import copy
import operator
from typing import Any

from torch import fx

from relprop.rewrite.buffers import add, add_
from relprop.rewrite.signed import stack_outputs
from relprop.rewrite.step import Step


def reinplace(program: fx.GraphModule) -> tuple[fx.Graph, dict[str, Step]]:
    """Let steps and sums overwrite what nobody else reads.

    Whether a relevance may be overwritten depends on what made it:

    ==============================  ====================================================================
    made by                         is in memory that nobody else has
    ==============================  ====================================================================
    a sum, or the step of a rule    always
    the step of a move              if it has one input, its rule declares ``overwrites``, and what it
                                    moved may be overwritten: it may be in the same memory
    a stack of several outputs      if all of its parts are
    anything else, such as a hook   never: somebody may have kept it
    ==============================  ====================================================================

    Parameters
    ----------
    program : fx.GraphModule
        A relevance program of a rule set that conserves mass, which stays as it is.

    Returns
    -------
    graph : fx.Graph
        What computes the same in its place.
    steps : dict
        Its steps that overwrite, by the names of those they replace.
    """
    graph, steps = copy.deepcopy(program.graph), dict[str, Step]()
    owned: set[Any] = set()

    def read_once(node: Any) -> bool:
        return node in owned and len(node.users) == 1

    for node in graph.nodes:
        if node.target is add:
            owned.add(node)
            if read_once(node.args[0]):
                node.target = add_
        elif node.target is stack_outputs:
            if all(part is None or read_once(part) for part in node.args):
                owned.add(node)
        elif node.op == "call_module" and isinstance(step := program.get_submodule(node.target), Step):
            inputs, last = len(step.site.active), step.rule.overwrites and read_once(node.args[0])
            if last and not step.rule.moves:
                steps[node.target] = step.overwriting()
            if not step.rule.moves or (last and inputs == 1):
                owned.update(user for user in node.users if user.target is operator.getitem and user.args[1] < inputs)
    return graph, steps
