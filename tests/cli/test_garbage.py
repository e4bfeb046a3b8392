"""Python's search for cycles: rare while modules are imported, then as Python has it by itself."""

from __future__ import annotations

import subprocess
import sys

from relprop.cli.garbage import NEW_OBJECTS

SCRIPT = """
import gc
from relprop.cli.garbage import collect_as_usual, collect_rarely
before = gc.get_threshold()
collect_rarely()
rarely = gc.get_threshold()
collect_as_usual()
print(before == gc.get_threshold(), rarely[0], rarely[1:] == before[1:])
"""


def test_the_search_is_rare_until_it_is_as_usual() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", str(NEW_OBJECTS), "True"]
