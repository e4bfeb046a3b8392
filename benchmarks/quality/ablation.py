"""The ablation: how good the maps of rule sets, contrasts, other methods and controls are.

A row holds what a variant came to on every picture, so that means, intervals and paired differences follow from the
file alone; see `benchmarks.quality.comparison`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.quality.measures import judge, redraw
from benchmarks.quality.recognised import Half, recognise
from benchmarks.quality.variants import BATCH, Variant
from benchmarks.records.ledger import Ledger
from relprop.errors import RelpropError
from relprop.explainer import Explainer


@dataclass(frozen=True)
class AblationRow:
    """One variant on one model: a value per picture of each measure, separated by spaces.

    Attributes
    ----------
    passes, seconds
        Backward passes and processor time per map.
    inside, pointing
        Of pictures with an outlined object: share of positive relevance inside it, whether the largest relevance is.
    gain, log_odds_gain
        Of labelled pictures: symmetric relevance gain of the class's probability, and of its log-odds.
    quadrant
        Share of positive relevance in the picture's own quadrant of a mosaic.
    redrawn_last, redrawn_half, redrawn_all
        Rank correlation with the map of a model whose last layers are drawn anew.
    other_class
        Rank correlation with the map of the class with the second largest output.
    reason
        Why nothing was measured.
    """

    KEYS: ClassVar = ("model", "variant")

    model: str
    kind: str
    variant: str
    passes: int | None = None
    seconds: float | None = None
    inside: str = ""
    pointing: str = ""
    gain: str = ""
    log_odds_gain: str = ""
    quadrant: str = ""
    redrawn_last: str = ""
    redrawn_half: str = ""
    redrawn_all: str = ""
    other_class: str = ""
    reason: str = ""


def ablate(
    name: str,
    shared: Path,
    ledger: Ledger,
    chosen: Iterable[Variant],
    half: Half,
    objects: int | None = None,
    pictures: int = 16,
    redrawn: int = 4,
) -> None:
    """Add a row for every variant on one model that has none yet.

    Parameters
    ----------
    name
        A model, see `benchmarks.quality.classifiers`.
    shared
        The folder that holds ``assets/``.
    ledger
        Where the rows go.
    chosen
        What is compared.
    half
        The half of the pictures.
    objects, pictures
        How many outlined and labelled pictures are judged, at most; None are all.
    redrawn
        For how many of the labelled ones copies with other weights are explained too.

    Raises
    ------
    DataError
        Pictures or weights aren't there.
    """
    done = {row["variant"] for row in ledger.rows() if row["model"] == name}
    missing = [variant for variant in chosen if variant.name not in done]
    if not missing:
        return
    recognised = recognise(name, shared, objects, pictures, half)
    copies = redraw(recognised, redrawn) if redrawn else None
    sites = list(Explainer(recognised.model).plan(recognised.labelled.x[:BATCH]).sites.values())
    for variant in tqdm(missing, name, unit="variant", disable=None):
        try:
            if not variant.concerns(sites, recognised.setting):
                ledger.append(_refused(name, variant, "no such operation in this model"))
                continue
            passes = variant.count_passes(recognised.setting)
            measured = judge(variant, recognised, copies)
        except (RelpropError, NotImplementedError, ValueError) as error:
            ledger.append(_refused(name, variant, str(error)))
        else:
            values = {measure: spell(value) for measure, value in measured.values.items()}
            ledger.append(AblationRow(name, variant.kind, variant.name, passes, measured.seconds, **values))


def _refused(name: str, variant: Variant, reason: str) -> AblationRow:
    return AblationRow(name, variant.kind, variant.name, reason=reason or "refused without a word")


def spell(values: Tensor) -> str:
    """Write values ``(B,)`` to four digits, separated by spaces."""
    return " ".join(f"{value:.4g}" for value in values.tolist())


def read_values(row: Mapping[str, str], measure: str) -> NDArray[np.float64]:
    """Return the values of a measure, picture by picture, ``(B,)``; none where nothing was measured."""
    return np.array([float(value) for value in row[measure].split()], np.float64)


def order_rows(rows: Sequence[Mapping[str, str]], chosen: Sequence[Variant]) -> list[Mapping[str, str]]:
    """Return the rows of some variants, model by model, in the order of the variants."""
    places = {variant.name: place for place, variant in enumerate(chosen)}
    models = list(dict.fromkeys(row["model"] for row in rows))
    wanted = [row for row in rows if row["variant"] in places]
    return sorted(wanted, key=lambda row: (models.index(row["model"]), places[row["variant"]]))
