"""Data sets, and the order in which their samples are evaluated."""
