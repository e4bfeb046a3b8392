"""An attribution method of captum that explains by relevance. This module needs captum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor
from torch.export import ExportedProgram

from relprop.assign.rule_names import as_rule_set
from relprop.errors import RelpropError
from relprop.explanation.attributions import Attributions, Explains, attributions_of
from relprop.tracing.loading import callable_program
from relprop.tracing.outputs import choose_output


class RelevanceAttribution(Attribution):  # type: ignore[misc]
    """A ``captum.attr.Attribution`` whose attributions are relevance.

    Parameters
    ----------
    explainer : Explainer
        What explains; its options hold. ``forward_func`` is its model, or that model's output which is explained.
    """

    def __init__(self, explainer: Explains) -> None:
        super().__init__(_forward(explainer))
        self.explainer = explainer

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether an attribution is a share of the output, as input times gradient is, and no plain gradient."""
        rules = as_rule_set(self.explainer.rules)
        return rules.times_input or rules.mass != "ignored" or rules.normalize is not None

    def has_convergence_delta(self) -> bool:
        """Tell whether attributions ought to sum to what is explained.

        They ought where rules hand relevance on or say what they absorb, and nothing is subtracted: without contrast.
        """
        rules = as_rule_set(self.explainer.rules)
        contrast = rules.contrast if self.explainer.contrast == "default" else self.explainer.contrast
        return contrast is None and rules.mass != "ignored" and rules.normalize is None

    @log_usage()  # type: ignore[untyped-decorator]  # NoiseTunnel calls what this wraps
    def attribute(
        self,
        inputs: Attributions,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Attributions | tuple[Attributions, Tensor]:
        """Return relevance, see `relprop.Explainer.attribute`, and, if asked, what is missing from its sum.

        Returns
        -------
        Tensor or tuple of Tensor
            Shaped like ``inputs``.
        Tensor
            With ``return_convergence_delta``: see `compute_convergence_delta`, ``(B,)``.

        Raises
        ------
        RelpropError
            If a delta is requested where `has_convergence_delta` is false.
        """
        if return_convergence_delta and not self.has_convergence_delta():
            raise RelpropError(
                f"rule set {as_rule_set(self.explainer.rules).name!r}, with this contrast, has no sum that relevance "
                "ought to have: leave return_convergence_delta out, or explain with <contrast> and rules that "
                "conserve",
                contrast="None",
            )
        attributions, explanation = attributions_of(self.explainer, inputs, target, additional_forward_args)
        if not return_convergence_delta:
            return attributions
        if as_rule_set(self.explainer.rules).seed == "one":
            at_output = explanation.output.new_ones(len(explanation))
        elif explanation.target is None:
            at_output = explanation.output  # of a callable target, (B,)
        else:
            at_output = explanation.output.gather(1, explanation.target[:, None])[:, 0]
        return attributions, self.compute_convergence_delta(attributions, at_output)

    def compute_convergence_delta(self, attributions: Attributions, output: Tensor) -> Tensor:
        """Return relevance at the output minus that of the inputs, ``(B,)``.

        Parameters
        ----------
        attributions : Tensor or tuple of Tensor
            As `attribute` returns them.
        output : Tensor
            Relevance at the output, ``(B,)``: what is explained, or one under rules that start with one.
        """
        parts = attributions if isinstance(attributions, tuple) else (attributions,)
        return output.flatten() - torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0).to(output)


def _forward(explainer: Explains) -> Callable[..., Any]:
    model = explainer.model
    call: Callable[..., Any] = callable_program(model) if isinstance(model, ExportedProgram) else model
    if explainer.output is None:
        return call
    return lambda *args, **kwargs: choose_output(call(*args, **kwargs), explainer.output)[0]
