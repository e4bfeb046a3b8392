"""Means with intervals, and differences from a default, picture by picture: as tables of the README.

Intervals are bootstrapped, 95 % (BCa). Differences are tested by Wilcoxon's signed ranks; the p-values of all variants
are adjusted together for their number, by Holm's method, for each measure of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.ablation import read_values
from benchmarks.quality.variants import DEFAULT
from benchmarks.records.tables import markdown_table
from relprop.analysis.reports.statistics import estimate_mean, holm, signed_rank_p

LEVEL = 0.05
COMPARED = {
    "inside": "inside",
    "pointing": "pointing",
    "gain": "gain",
    "log_odds_gain": "gain, log-odds",
    "quadrant": "own quadrant",
}
"""Measures that are compared with the default's, and their headings; more is better."""
SIMILARITIES = {
    "redrawn_last": "last layer redrawn",
    "redrawn_half": "half redrawn",
    "redrawn_all": "all redrawn",
    "other_class": "other class",
}
"""Rank correlations with other maps; less is better."""
SUMMARISED = ("inside", "gain", "quadrant")

Row = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Difference:
    """How far a measure is from the default's.

    Parameters
    ----------
    values : ndarray
        Of each picture, where both have a value, ``(n,)``.
    p : float
        Adjusted; NaN where there is no test.
    """

    values: NDArray[np.float64]
    p: float

    @property
    def arrow(self) -> str:
        """Which way it leaves the default, where the adjusted p-value says that it does."""
        return "" if not self.p < LEVEL else "↑" if self.values.mean() > 0 else "↓"

    def __str__(self) -> str:
        p = "" if isnan(self.p) else f", p {self.p:.2g}"
        return f"{_with_interval(self.values, '+.2f')}{p}{self.arrow}"


def differences(rows: Sequence[Row], measure: str, default: str = DEFAULT) -> dict[str, Difference]:
    """Compare the variants of one model with one of them, by name; those without values are left out.

    Pictures for which either has no value are left out. Without the default there are no differences.
    """
    values = {row["variant"]: read_values(row, measure) for row in rows}
    reference = values.get(default, np.array([]))
    pairs = {name: found - reference for name, found in values.items() if len(found) == len(reference) > 0}
    pairs = {name: found[~np.isnan(found)] for name, found in pairs.items()}
    tested = holm([nan if name == default else signed_rank_p(found) for name, found in pairs.items()])
    return {name: Difference(found, p) for (name, found), p in zip(pairs.items(), tested, strict=True)}


def tables(rows: Sequence[Row], default: str = DEFAULT) -> str:
    """Return the tables of every model: means, and where variants are few their differences with intervals."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        parts.append(f"**{model}**, {_pictures(of_model)}\n\n{means_table(of_model, default)}")
        if len(of_model) <= DETAILED:
            parts.append(f"Differences from `{default}`:\n\n{differences_table(of_model, default)}")
        parts += _refusals(of_model)
    return "\n\n".join(parts)


DETAILED = 12
"""So many variants have intervals in their tables; more would not be read."""


def means_table(rows: Sequence[Row], default: str = DEFAULT) -> str:
    """Return the means of all measures of one model, with an arrow where one leaves the default."""
    found = {measure: differences(rows, measure, default) for measure in COMPARED}
    lines = [["variant", *COMPARED.values(), *SIMILARITIES.values(), "passes", "ms"]]
    for row in _measured(rows):
        name = row["variant"]
        cells = [_mean(row, measure, len(rows) <= DETAILED) + _arrow(found[measure], name) for measure in COMPARED]
        cells += [_mean(row, measure, False) for measure in SIMILARITIES]
        lines.append([f"`{name}`", *cells, row["passes"], f"{1000 * float(row['seconds']):.0f}"])
    return markdown_table(lines)


def differences_table(rows: Sequence[Row], default: str = DEFAULT) -> str:
    """Return the mean paired differences of one model, with intervals and adjusted p-values."""
    found = {measure: differences(rows, measure, default) for measure in COMPARED}
    lines = [["variant", *COMPARED.values()]]
    for row in _measured(rows):
        name = row["variant"]
        if name != default:
            lines.append([f"`{name}`", *(str(found[measure].get(name, "")) for measure in COMPARED)])
    return markdown_table(lines)


def summary(rows: Sequence[Row], default: str = DEFAULT) -> str:
    """Return one table of all models: inside, gain and own quadrant of every variant, with arrows as in the others."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells: dict[tuple[str, str], str] = {}
    for model in models:
        of_model = [row for row in rows if row["model"] == model]
        found = {measure: differences(of_model, measure, default) for measure in SUMMARISED}
        for row in _measured(of_model):
            name = row["variant"]
            said = (_mean(row, measure, False) + _arrow(found[measure], name) for measure in SUMMARISED)
            cells[name, model] = " / ".join(said)
    names = dict.fromkeys(row["variant"] for row in rows)
    heading = ["inside / gain / own quadrant", *models]
    return markdown_table([heading, *([f"`{name}`", *(cells.get((name, m), "-") for m in models)] for name in names)])


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row["reason"]]


def _refusals(rows: Sequence[Row]) -> list[str]:
    """Say of which variants nothing was measured, by reason."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            names.setdefault(row["reason"], []).append(f"`{row['variant']}`")
    lines = [f"- {', '.join(refused)}: {reason}" for reason, refused in names.items()]
    return ["Not measured:\n\n" + "\n".join(lines)] if lines else []


def _pictures(rows: Sequence[Row]) -> str:
    most = {measure: max(len(row[measure].split()) for row in rows) for measure in ("inside", "gain", "other_class")}
    return (
        f"{most['inside']} pictures with outlined objects, {most['gain']} labelled ones, {most['other_class']} of them "
        "with weights redrawn"
    )


def _mean(row: Row, measure: str, with_interval: bool) -> str:
    values = read_values(row, measure)
    values = values[~np.isnan(values)]
    if not len(values):
        return ""
    return _with_interval(values, ".2f") if with_interval else f"{values.mean():.2f}"


def _with_interval(values: NDArray[np.float64], digits: str) -> str:
    """Write the mean of values ``(B,)`` with its interval, where there is one."""
    found = estimate_mean(values)
    return f"{found.mean:{digits}}" + ("" if isnan(found.low) else f" [{found.low:{digits}}, {found.high:{digits}}]")


def _arrow(found: Mapping[str, Difference], name: str) -> str:
    return found[name].arrow if name in found else ""
