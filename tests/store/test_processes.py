"""Several processes, a full disk, and kills: what is committed stays."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from relprop.store import (
    BusyError,
    EvaluationWriter,
    is_complete,
    merge,
    open_evaluation,
    validate,
)
from tests.helpers.store_files import (
    ABSLRP,
    LAYOUT,
    METHODS,
    assert_same,
    config,
    method_rows,
    python,
    sample_rows,
    write_all,
    write_file,
)


def test_one_writer_and_no_readers_beside_it(whole: Path) -> None:
    elsewhere = "import sys; from relprop.store import *\ntry: {}\nexcept BusyError as error: print(error)"
    with EvaluationWriter.resume(whole, config(12), LAYOUT):
        for what, words in (
            (lambda: EvaluationWriter.resume(whole, config(12), LAYOUT), "or read by another relprop"),
            (
                lambda: EvaluationWriter.create(whole, config(12), LAYOUT, overwrite=True),
                "or read by another relprop",
            ),
            (lambda: open_evaluation(whole), "is being written"),
            (lambda: merge([whole], whole, overwrite=True), "or read by another relprop"),
        ):
            with pytest.raises(BusyError, match=words):
                what()
        assert "is being written" in python(elsewhere.format("open_evaluation(sys.argv[1])"), whole).communicate()[0]
        second = python(elsewhere.format("EvaluationWriter.resume(sys.argv[1], {}, None)"), whole)
        assert "or read by another relprop" in second.communicate()[0]
    with (
        open_evaluation(whole),
        open_evaluation(whole),
        pytest.raises(BusyError, match="or read by another relprop"),
    ):
        EvaluationWriter.resume(whole, config(12), LAYOUT)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forks_of_a_killed_writer_do_not_keep_its_file_from_being_resumed(whole: Path) -> None:
    write_and_fork = f"""
        import os, signal, sys
        from relprop.store import EvaluationWriter
        from tests.helpers.store_files import LAYOUT, config
        writer = EvaluationWriter.resume({str(whole)!r}, config(12), LAYOUT)
        child = os.fork()
        if not child:
            os.close(1)
            os.close(2)
            signal.pause()
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    output, errors = python(dedent(write_and_fork)).communicate()
    child = int(output)
    try:
        with EvaluationWriter.resume(whole, config(12), LAYOUT):
            os.kill(child, 0)  # it is alive
    finally:
        os.kill(child, signal.SIGKILL)
    assert not errors


def test_without_locks_it_works_and_says_so(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    with (
        pytest.warns(UserWarning, match="nothing keeps a second writer away"),
        EvaluationWriter.resume(whole, config(12), LAYOUT) as writer,
    ):
        assert writer.sample_states().all()


FULL_DISK = """
import resource, sys
from pathlib import Path
from relprop.files import OutputError
from relprop.store import EvaluationWriter
from tests.helpers.store_files import LAYOUT, METHODS, config, method_rows, sample_rows
path = Path(sys.argv[1])
writer = EvaluationWriter.create(path, config(4000), LAYOUT, range(4000), methods=METHODS)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 400_000,) * 2)
try:
    for start in range(0, 4000, 100):
        rows = range(start, start + 100)
        writer.write_samples(rows, sample_rows(rows))
        writer.write_method("absLRP", rows, method_rows(rows, METHODS[0]))
        writer.commit()
        print(start + 100, flush=True)
    writer.finish()
except OutputError as error:
    print(error)
writer.close()
"""


def test_a_full_disk_is_said_and_takes_nothing_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    out, error = python(FULL_DISK, path).communicate()
    *counts, message = out.splitlines()
    assert error == ""
    assert message.startswith(f"cannot write {path}: File too large")
    done = int(counts[-1])
    assert 100 <= done < 4000
    with open_evaluation(path) as file:
        validate(file)
        assert not is_complete(file)
        assert file["methods/absLRP/state"][:].tolist() == [1] * done + [0] * (4000 - done)
        last = slice(done - 100, done)
        np.testing.assert_array_equal(file["samples/steps"][last], sample_rows(range(done - 100, done))["steps"])
    with EvaluationWriter.resume(path, config(4000), LAYOUT) as writer:  # there is room now
        writer.write_samples([3999], sample_rows([3999]))
        writer.commit()
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000,) * 2)\n{FULL_DISK}"
    out, error = python(limited.replace("writer = E", "E"), tmp_path / "other.h5").communicate()
    assert "OutputError: cannot write" in error.splitlines()[-1]
    assert os.listdir(tmp_path) == ["run.h5"]


KILLED = """
import sys
from relprop.store import EvaluationWriter
from tests.helpers.store_files import LAYOUT, METHODS, config, write_all

class Telling(EvaluationWriter):
    def commit(self):
        super().commit()
        print("committed", flush=True)

with Telling.resume(sys.argv[1], config(100), LAYOUT) as writer:
    write_all(writer)
"""


@pytest.mark.full
def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    path, unbroken = tmp_path / "run.h5", tmp_path / "unbroken.h5"
    EvaluationWriter.create(path, config(100), LAYOUT, range(100), methods=METHODS).close()
    seed = int(os.environ.get("RELPROP_SEED") or int.from_bytes(os.urandom(4)))
    print(f"RELPROP_SEED={seed} draws these moments again")
    random = np.random.default_rng(seed)
    done = 0
    for _ in range(10):
        process = python(KILLED, path)
        assert process.stdout is not None
        for _ in range(random.integers(1, 10)):
            assert process.stdout.readline() == "committed\n", process.communicate()[1]
        time.sleep(random.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with open_evaluation(path) as file:
            validate(file)
            assert bool(file.attrs["complete"]) == all(
                file[group]["state"][:].all() for group in ("samples", "methods/absLRP", "methods/constant")
            )
            for group, wanted in (
                (file["samples"], sample_rows(range(100))),
                (file["methods/absLRP"], method_rows(range(100), ABSLRP)),
            ):
                rows = np.flatnonzero(group["state"][:])
                for name in sorted(set(wanted) - {"relevance", "name"}):
                    values = np.asarray(wanted[name], group[name].dtype)
                    np.testing.assert_array_equal(group[name][:][rows], values[rows])
            kept = int(file["samples/state"][:].sum())
        assert kept >= done
        done = kept
    assert done > 0
    with EvaluationWriter.resume(path, config(100), LAYOUT) as writer:
        write_all(writer)
    assert_same(path, write_file(unbroken, range(100), config(100)))
