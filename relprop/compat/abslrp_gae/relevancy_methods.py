"""Relevancy methods: classes whose ``relevancy`` returns maps."""

from __future__ import annotations

from torch import Tensor, nn

from relprop.compat.abslrp_gae.rules import applied_rules
from relprop.compat.abslrp_gae.utils import NormalizationType, normalize_relevance
from relprop.explainer import Explainer
from relprop.models.devices import device_of


class RelevancyMethod:
    """Base of methods; a subclass has ``_generate_relevancy``.

    Parameters
    ----------
    model : nn.Module
        What is explained.
    device : str, optional
        Where pictures go; by default where the model is.
    """

    def __init__(self, model: nn.Module, device: str | None = None) -> None:
        self.model = model
        self.device = str(device_of(model)) if device is None else device

    def relevancy(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return maps, each over its largest magnitude, in the memory of the processor.

        Parameters
        ----------
        x : Tensor
            Pictures ``(B, C, H, W)``.
        y : Tensor, optional
            Classes ``(B,)``; by default the model's predictions.

        Returns
        -------
        Tensor
            Shaped like ``x``, in [-1, 1].
        """
        relevance = self._generate_relevancy(x=x, y=y)
        return normalize_relevance(relevance.detach().cpu(), NormalizationType.MAX_TO_ONE)

    def _generate_relevancy(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return maps ``(B, C, H, W)`` of pictures for classes ``(B,)``; a subclass has its own."""
        raise NotImplementedError(f"{type(self).__name__} has no method _generate_relevancy(x, y) of its own")


class AbsLRPRelevancyMethod(RelevancyMethod):
    """Contrastive absLRP, by the rules applied to the model: relevance of the class minus that of all others."""

    def _generate_relevancy(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return contrastive absLRP, ``(B, C, H, W)``."""
        explainer = Explainer(self.model, rules=applied_rules(self.model), contrast="rest")
        return explainer(x.to(self.device), y).relevance
