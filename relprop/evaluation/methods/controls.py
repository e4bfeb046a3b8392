"""Maps that know nothing of the model: what chance scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relprop.evaluation.methods.base import Method, Request
from relprop.gae import centre_map, constant_map, random_map


class Control(Method):
    """A control of `relprop.gae`.

    Parameters
    ----------
    name : {"random", "constant", "centre"}
        Which one.
    seed : int
        Of the random one: each of its maps follows from it, the sample's index and the state.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._draw, summary = _CONTROLS[name]
        self.description = f"a control: {summary}"
        self.seed = seed
        self.config = {"control": name}

    def maps(self, request: Request) -> Tensor:
        """Draw the maps, ``(B, H, W)``."""
        return self._draw(request, self.seed).to(request.x.device)


def _random(request: Request, seed: int) -> Tensor:
    """Return uniform maps ``(B, H, W)``, drawn by seed, sample and state."""
    size = request.x.shape[2:]
    pairs = zip(request.index, request.state, strict=True)
    return torch.cat([random_map([index], size, seed=seed, draw=state) for index, state in pairs])


def _constant(request: Request, seed: int) -> Tensor:
    """Return maps ``(B, H, W)`` of ones."""
    return constant_map(len(request.x), request.x.shape[2:])


def _centre(request: Request, seed: int) -> Tensor:
    """Return a Gaussian about the centre, ``(B, H, W)``."""
    return centre_map(len(request.x), request.x.shape[2:])


_CONTROLS: dict[str, tuple[Callable[[Request, int], Tensor], str]] = {
    "random": (_random, "uniform random relevance, another for each picture it is asked about"),
    "constant": (_constant, "the same relevance everywhere"),
    "centre": (_centre, "a Gaussian about the centre of the picture"),
}
CONTROLS = tuple(_CONTROLS)
SUMMARIES = {name: summary for name, (_, summary) in _CONTROLS.items()}
