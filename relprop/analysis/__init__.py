"""Evaluations read back, summarised and compared. Needs no PyTorch; statistics and tables need extra ``analysis``."""

from relprop.analysis.records import (
    AnalysisError,
    Failure,
    Failures,
    MissingMapsError,
    Ranked,
    Ranking,
    Samples,
    ScoreInfo,
    UnknownMethodError,
)
from relprop.analysis.reports.comparisons import Comparison, Comparisons
from relprop.analysis.reports.statistics import Estimate
from relprop.analysis.reports.summaries import MethodSummary, ScoreSummary, Summary
from relprop.analysis.results import Results

__all__ = [
    "AnalysisError",
    "Comparison",
    "Comparisons",
    "Estimate",
    "Failure",
    "Failures",
    "MethodSummary",
    "MissingMapsError",
    "Ranked",
    "Ranking",
    "Results",
    "Samples",
    "ScoreInfo",
    "ScoreSummary",
    "Summary",
    "UnknownMethodError",
]
