"""Reports of an evaluation: summaries, comparisons, rankings."""
