"""Metrics of the field beside GAE, for maps of any method: where relevance lies, and what removing it does.

- `pointing_game` and `energy_inside`: does relevance lie on a known object? `boxes_to_masks` makes masks of boxes.
- `perturbation_curves`: the model's output while pixels are removed by relevance, most relevant first (MoRF) or least
  relevant first (LeRF); `area_under` them are the deletion and insertion scores, their difference the symmetric
  relevance gain.

All are pure functions, and all scores are vectors, one entry a sample. Maps are ``(B, C, H, W)``, ``(B, 1, H, W)`` or
``(B, H, W)``; channels are summed. A score means little without that of a map that knows nothing:
`relprop.gae.random_map`, `relprop.gae.constant_map`, `relprop.gae.centre_map`.
"""

from relprop.metrics.localisation import boxes_to_masks, energy_inside, pointing_game
from relprop.metrics.perturbation import PerturbationCurves, area_under, perturbation_curves

__all__ = [
    "PerturbationCurves",
    "area_under",
    "boxes_to_masks",
    "energy_inside",
    "perturbation_curves",
    "pointing_game",
]
