"""Where things lie beside the tests."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
SHARED = ROOT.parent / "shared"
"""Records and real weights, which lie beside a checkout and are no part of it."""
