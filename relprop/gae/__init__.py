"""GAE, Global Attribution Evaluation: how faithful, robust and contrastive an explanation is.

`score` does everything for one batch and one method. What it is made of, for who evaluates many:

- `masking_run`: what the model does while pixels are masked; `masked` makes its states again;
- `make_mosaics` and `quadrant_scores`: mosaics of four pictures, and what their quadrants mean;
- `score_maps`, or `faithfulness`, `map_change`, `robustness`, `contrastiveness` and `collect_scores`: scores of maps
  already computed, by whatever method;
- `random_map`, `constant_map`, `centre_map`: what chance reaches. A score means little without it.

What the authors' released code does in place of the definition is in `relprop.gae.released`.
"""

from relprop.gae.checks import MapError
from relprop.gae.controls import centre_map, constant_map, mosaic_oracle_map, oracle_map, random_map
from relprop.gae.maps import Score, positive_map
from relprop.gae.masking import ORDERS, STATES, MaskingRun, masked, masking_run
from relprop.gae.mosaics import Quadrants, make_mosaics, mosaic_members, quadrant_scores, score_map
from relprop.gae.protocols import score
from relprop.gae.scores import (
    Flag,
    Scores,
    collect_scores,
    contrastiveness,
    faithfulness,
    local_consistency,
    map_change,
    robustness,
    score_maps,
)

__all__ = [
    "ORDERS",
    "STATES",
    "Flag",
    "MapError",
    "MaskingRun",
    "Quadrants",
    "Score",
    "Scores",
    "centre_map",
    "collect_scores",
    "constant_map",
    "contrastiveness",
    "faithfulness",
    "local_consistency",
    "make_mosaics",
    "map_change",
    "masked",
    "masking_run",
    "mosaic_members",
    "mosaic_oracle_map",
    "oracle_map",
    "positive_map",
    "quadrant_scores",
    "random_map",
    "robustness",
    "score",
    "score_map",
    "score_maps",
]
