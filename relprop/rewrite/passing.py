"""Relevance that passes an operation as it is: what must hold for that."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from relprop.errors import RuleError


def passed_part(where: str, node: fx.Node, arrived: fx.Node, inputs: Sequence[fx.Node]) -> fx.Node:
    """Return the relevance that passes to the one input, which must be shaped like the output (the first of several).

    Parameters
    ----------
    where : str
        Rule and operation, for error messages.
    node, arrived : fx.Node
        The operation, and the relevance at its output.
    inputs : sequence of fx.Node
        Its activations.

    Raises
    ------
    RuleError
        If it can't pass.
    """
    if len(inputs) != 1:
        raise RuleError(f"{where}, which can't pass relevance on to {len(inputs)} inputs: give it another rule")
    output, parts = node.meta["val"], (arrived,)
    if isinstance(output, tuple | list):
        output, parts = output[0], arrived.args  # type: ignore[assignment]
    expected = inputs[0].meta["val"].shape
    if output.shape != expected:
        raise RuleError(
            f"{where}, whose output {tuple(output.shape)} is not shaped like its input {tuple(expected)}, so that "
            "relevance can't pass unchanged: give it a rule that returns (S, *input)"
        )
    if any(parts[1:]):
        raise RuleError(f"{where}, of whose several outputs it can pass the first alone: give it another rule")
    return parts[0]
