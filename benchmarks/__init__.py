"""Measurements of relprop: how fast it is, and what its maps are worth.

Run ``python -m benchmarks --help``. Each sub-command prints a table and writes it, with the conditions it was
measured under in the file's name, to ``benchmarks/results/``.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or PyTorch's profiler tells of GPUs that are not there
