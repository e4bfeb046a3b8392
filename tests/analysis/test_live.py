"""Results of a run that is being written: what is read is right, and the run is unhurt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relprop import Results
from relprop.analysis import reading
from relprop.store import BusyError, is_complete, open_evaluation, validate
from tests.helpers.paths import ROOT

WRITER = """
import sys, time
import numpy as np
from relprop.store import EvaluationWriter, Layout, Method
from tests.helpers.evaluation_files import CONFIG, score_columns

path, count, maps = sys.argv[1], int(sys.argv[2]), np.arange(16.0).reshape(1, 4, 4)
config = CONFIG | {"samples": count, "shard": [0, 1]}
method = Method("constant", {"control": "constant"}, maps="summed")
rng = np.random.default_rng(0)
with EvaluationWriter.create(path, config, Layout((4, 4), 3, precision="float64"), range(count), methods=[method]) as w:
    print("begun", flush=True)
    for k in range(count):
        values = score_columns([k / count], [0.0], [1.0])
        others = {"map_change": rng.random((1, 2, 9)), "seconds": [0.1], "relevance": maps + k}
        w.write_method("constant", [k], values | others)
        w.write_samples([k], {"state": 2, "message": ["no picture " + "x" * (k % 50)]})
        w.commit()
        time.sleep(0.03)
    w.finish()
"""


@pytest.mark.full
@pytest.mark.parametrize("count", [200])
def test_two_hundred_reads_of_a_run_that_is_written(tmp_path: Path, count: int) -> None:
    path, wanted, reads, waits, seen = tmp_path / "run.h5", 200, 0, 0, set()
    arguments = [sys.executable, "-c", WRITER, str(path), str(count)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        while process.poll() is None and reads < wanted:
            try:
                with Results(path) as results:
                    faithfulness = results.score("faithfulness", "constant")
                    done = np.flatnonzero(~np.isnan(faithfulness))
                    np.testing.assert_array_equal(faithfulness[done], done / count)
                    if len(done):
                        last = int(done[-1])
                        found, written = results[[last]].relevance("constant")[0], np.arange(16.0).reshape(4, 4) + last
                        np.testing.assert_allclose(found, written, rtol=1e-3)  # kept in float16
                    seen.add(len(done))
            except BusyError:
                waits += 1
            reads += 1
    assert process.returncode == 0
    assert reads - waits > reads // 2, f"{waits} of {reads} reads were told to wait"
    assert len({number for number in seen if 0 < number < count}) > 1, "nothing was read while it was written"
    with open_evaluation(path) as file:
        validate(file)
        assert is_complete(file)


def test_a_read_that_meets_a_change_is_told_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    subprocess.run([sys.executable, "-c", WRITER, str(path), "4"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    with Results(path) as results:
        monkeypatch.setattr(reading, "PAUSE", 0.0)
        monkeypatch.setattr(reading, "is_being_changed", lambda path, file: True)

        def torn(data: object, rows: object) -> None:
            raise OSError("can't read data (wrong checksum)")

        monkeypatch.setattr(reading, "_read", torn)
        with pytest.raises(BusyError, match="was changed while it was read: try again"):
            results.score("gae", "constant")
