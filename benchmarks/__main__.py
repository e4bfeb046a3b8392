"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import torch

from benchmarks.commands import app

if __name__ == "__main__":
    torch.manual_seed(0)
    app(prog_name="python -m benchmarks")
