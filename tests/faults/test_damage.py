"""No byte of a file that changed is read as another number, for each compression; a file without its end is told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.damage import COMPRESSIONS, damaged, outcome, prepare, read_all

pytest.importorskip("hdf5plugin")


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.full)])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damage_is_told(tmp_path: Path, compression: str, count: int) -> None:
    source = prepare(tmp_path / "sound", compression)
    wanted = read_all(source)
    first = random.SystemRandom().randrange(10**6)
    for kind in ("flip", "truncate"):
        ended = {}
        for number in range(first, first + count):
            damaged(source, tmp_path / "run.h5", kind, number)
            ended[number] = outcome(tmp_path / "run.h5", wanted)
        print(f"{kind} {compression}: {ended}")
        assert set(ended.values()) <= {"right", "told"}
        assert "told" in ended.values() or count < 20
