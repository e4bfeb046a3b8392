"""A stream that is killed between any two writes of its first rows goes on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from relprop.store import EvaluationWriter, open_evaluation, validate
from relprop.store.writing import writer
from tests.faults.library import drawn
from tests.helpers.store_files import LAYOUT, METHODS, config, contents, write_all
from tests.store.test_crash_repair import Recording, prefixes

STREAM = {**config(4), "samples": None}


def grow(stream: EvaluationWriter, to: int = 4) -> None:
    """Write what is open, then further samples."""
    write_all(stream)
    if len(stream.index) < to:
        stream.extend(range(len(stream.index), to))
        write_all(stream)


@pytest.mark.parametrize("count", [2, pytest.param(40, marks=pytest.mark.full)])
def test_a_stream_killed_in_its_first_flush_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    path, killed = tmp_path / "run.h5", tmp_path / "killed.h5"
    EvaluationWriter.create(path, STREAM, LAYOUT, methods=METHODS).close()
    start = path.read_bytes()
    recording = Recording(path)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "reserve", recording.reserve)
        with h5py.File(recording, "r+") as file:
            EvaluationWriter(path, file).extend(range(2))
    chosen = set(drawn(count, len(recording.done)))
    found = []
    for point, content in enumerate(prefixes(start, recording.done), 1):
        if point not in chosen:
            continue
        killed.write_bytes(content)
        with EvaluationWriter.resume(killed, STREAM, LAYOUT, methods=METHODS) as stream:
            grow(stream)
        with open_evaluation(killed) as file:
            validate(file)
        found.append(contents(killed))
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert len(found) == len(chosen)
