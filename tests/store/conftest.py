"""What the tests of the file share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.store_files import (
    config,
    write_file,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("store") / "whole.h5", range(12), config(12))
