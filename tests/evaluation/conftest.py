"""What the tests of the evaluator share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.evaluations import run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end."""
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    found = run(path, metrics=("deletion", "insertion", "srg"), relevance="channels")
    assert found.complete
    return path
