"""The sections of a report that are about whole runs: summary, paired differences, plots, configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
from matplotlib.figure import Figure

from relprop.analysis import AnalysisError, Comparisons, Results, ScoreInfo, Summary
from relprop.analysis.plots.plot import plot
from relprop.analysis.reports.summaries import HEADLINE, PARTS
from relprop.pages.thumbnails import data_uri
from relprop.pictures.tiles import encode

_TITLES = {
    "bars": "Scores with intervals",
    "scatter": "Local consistency and contrastiveness of every sample",
    "curves": "What masking does to the model and to the maps",
    "best-worst": "Best and worst samples",
}
EXTREMES = 5
"""Best and worst samples in a plot."""


@dataclass(frozen=True)
class Plot:
    """A plot as the page shows it: its title, the address of its image, and its size in pixels."""

    title: str
    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """What the page says of one run.

    Parameters
    ----------
    name : str
        Of the file.
    facts : tuple of tuple of str
        Names and values of what the run was, for its first lines.
    info : mapping of str to ScoreInfo
        What every score means.
    scores : mapping of str to ScoreInfo
        Of the columns of the summary, in their order.
    parts : tuple of str
        The scores before clipping, in a table of their own.
    summary : Summary
        Of all methods.
    comparisons : Comparisons, optional
        Of the reference with all others; None where there is one method alone.
    plots : tuple of Plot
        Every plot.
    remarks : tuple of str
        What is missing, and why.
    failures : tuple
        What failed, and why.
    config, methods : str, mapping
        The configurations, of the run and of each method, as JSON.
    versions : mapping
        Of the software.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    info: Mapping[str, ScoreInfo]
    scores: Mapping[str, ScoreInfo]
    parts: tuple[str, ...]
    summary: Summary
    comparisons: Comparisons | None
    plots: tuple[Plot, ...]
    remarks: tuple[str, ...]
    failures: tuple[Any, ...]
    config: str
    methods: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def titles(self) -> dict[str, str]:
        """Heads of the columns."""
        return {name: (HEADLINE | PARTS).get(name, name) for name in self.info}


@dataclass(frozen=True)
class RunPair:
    """What the page says of two runs, as those of two models.

    Parameters
    ----------
    mark : str
        What distinguishes it from other pairs.
    names : tuple of str
        Of the files.
    comparisons : Comparisons, optional
        Of each method that both have, on the samples of both.
    remark : str
        Why there are none.
    """

    mark: str
    names: tuple[str, str]
    comparisons: Comparisons | None
    remark: str


def describe_run(
    run: Results,
    remark: str,
    *,
    pictures: Path | None,
    by: str,
    reference: str | None,
    confidence: float,
    seed: int,
) -> Section:
    """Gather what the page says of a run; the reference is the best method that is no control, if none is named.

    Raises
    ------
    AnalysisError, UnknownMethodError
        If there is nothing to show, or no such method or score.
    """
    summary = run.summary(confidence, seed)
    comparisons = _compare(run, summary, reference, by, confidence, seed)
    drawn = plot(run, pictures=pictures, by=by, k=EXTREMES, seed=seed)
    found = run.score_info
    names = [*HEADLINE, *(name for name in found if name not in {*HEADLINE, *PARTS})]
    config = run.config
    return Section(
        name=run.path.name,
        facts=tuple(_run_facts(run, config, summary)),
        info=found,
        scores={name: found[name] for name in names if name in found},
        parts=tuple(name for name in PARTS if name in found),
        summary=summary,
        comparisons=comparisons,
        plots=tuple(_plots(drawn.figures)),
        remarks=tuple(filter(None, (remark, *drawn.remarks))),
        failures=run.failures().entries,
        config=_json(config),
        methods={name: _json(run.method_config(name)) for name in run.methods},
        versions=run.versions,
    )


def _compare(
    run: Results, summary: Summary, reference: str | None, by: str, confidence: float, seed: int
) -> Comparisons | None:
    """Compare the reference with all other methods that have the score."""
    scored = [method for method in summary.methods if by in method.scores]
    if reference is None:
        ranked = sorted(scored, key=lambda m: (m.control, -run.score_info[by].sign * _or_lowest(m.mean(by))))
        reference = ranked[0].method if ranked else ""
    others = [method.method for method in scored if method.method != reference]
    return run.compare_all(reference, others, by, confidence, seed) if others else None


def compare_pairs(runs: Sequence[Results], by: str, confidence: float, seed: int) -> Iterator[RunPair]:
    """Compare each two runs in the methods and samples of both; those that share none say why."""
    for (k, first), (other, second) in combinations(enumerate(runs), 2):
        try:
            found, remark = first.compare_runs(second, by=by, confidence=confidence, seed=seed), ""
        except AnalysisError as error:
            found, remark = None, str(error)
        yield RunPair(f"{k + 1}-{other + 1}", (first.path.name, second.path.name), found, remark)


def _plots(figures: Mapping[str, Figure]) -> Iterator[Plot]:
    for name, figure in figures.items():
        kind, _, method = name.partition(".")
        title = _TITLES[kind] + (f" of {unquote(method)}" if method else "")
        pixels = _pixels(figure)
        yield Plot(title, data_uri(pixels, lossless=not method), pixels.shape[1], pixels.shape[0])


def _pixels(figure: Figure) -> Any:
    """Draw a figure, uint8 RGB ``(H, W, 3)``."""
    decoded = cv2.imdecode(np.frombuffer(encode(figure), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _run_facts(run: Results, config: Mapping[str, Any], summary: Summary) -> Iterator[tuple[str, str]]:
    model = config.get("model")
    if isinstance(model, Mapping) and model.get("name"):
        yield "model", str(model["name"])
    yield "samples", f"{len(run):,}" if run.complete else f"{run.evaluated:,} of {run.planned:,}"
    yield "methods", str(len(summary.methods))
    yield "run", "complete" if run.complete else "not complete"
    if run.stopped:
        yield "stopped when it had reached", run.stopped
    shard = config.get("shard")
    if isinstance(shard, Sequence) and len(shard) == 2 and shard[1] != 1:
        yield "shard", f"{int(shard[0]) + 1} of {shard[1]}"
    yield "made", run.created


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)


def _or_lowest(value: float) -> float:
    return value if isfinite(value) else float("-inf")
