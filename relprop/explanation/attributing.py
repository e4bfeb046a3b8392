"""The calls of captum's methods, for an explainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relprop.explanation.attributions import Attributions, Explains, attributions_of
from relprop.extras import extra

if TYPE_CHECKING:
    from relprop.explanation.captum import RelevanceAttribution


class Attributing(Explains):
    """What explains when it is called, and can be used as an attribution method of captum, too."""

    def attribute(self, inputs: Attributions, target: Any = None, additional_forward_args: Any = None) -> Attributions:
        """Return relevance as captum's methods return attributions.

        Parameters
        ----------
        inputs : Tensor or tuple of Tensor
            The model's first positional inputs, samples first.
        target : int, sequence of int, Tensor, tuple of int or callable, optional
            As in a call. A tuple is a place in the output of each sample, as captum has it: ``(2, 7)`` is
            ``output[:, 2, 7]``.
        additional_forward_args : optional
            Further positional inputs: one, or a tuple of them. Relevance that falls on them is not returned.

        Returns
        -------
        Tensor or tuple of Tensor
            Shaped like ``inputs``; with the option ``at`` one tensor, shaped like that module's output.

        Raises
        ------
        InputError
            If one of ``inputs`` can't have relevance.
        TargetError, CaptureError, MissingRuleError, RuleError, OutOfMemoryError
            As a call.

        Examples
        --------
        >>> import torch, relprop
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).eval()
        >>> relprop.Explainer(model).attribute(torch.randn(2, 3, 2, 2), target=3).shape
        torch.Size([2, 3, 2, 2])
        """
        return attributions_of(self, inputs, target, additional_forward_args)[0]

    def as_captum(self) -> RelevanceAttribution:
        """Return a ``captum.attr.Attribution`` that explains with this, for what captum and others build on one.

        Raises
        ------
        MissingExtraError
            captum is not installed.
        """
        with extra("methods", "as_captum"):
            from relprop.explanation.captum import RelevanceAttribution
        return RelevanceAttribution(self)
