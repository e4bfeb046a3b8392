"""Two writers at once: one of them is told so, and nothing that either has committed is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from relprop.files import OutputError, whole, written_whole
from relprop.store import BusyError, EvaluationWriter, merge, open_evaluation
from relprop.store.hdf5 import opening
from relprop.store.writing import create
from tests.faults.jobs import ADDED
from tests.helpers.store_files import LAYOUT, METHODS, assert_same, config, contents, python, write_all, write_file


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("begun") / "run.h5", range(4), config(4))


@pytest.fixture
def path(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(begun, tmp_path / "run.h5"))


def before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, action: Callable[[], None]) -> None:
    """Have something done before each call of a function, but not while it is done."""
    real, running = getattr(module, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not running:
            running.append(True)
            try:
                action()
            finally:
                running.clear()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize(
    ("module", "name"), [(create.shutil, "copyfile"), (create, "trim"), (whole, "_put_in_place"), (create, "reserve")]
)
def test_nobody_writes_while_a_method_is_added(
    path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    refused = []

    def intrude() -> None:
        for attempt in (
            lambda: EvaluationWriter.resume(path, config(4), LAYOUT),
            lambda: EvaluationWriter.create(path, config(4), LAYOUT, range(4), overwrite=True),
            lambda: merge([path], path.with_name("other.h5"), overwrite=True) or open_evaluation(path),
        ):
            with pytest.raises(BusyError):
                attempt()
            refused.append(attempt)

    before(monkeypatch, module, name, intrude)
    with EvaluationWriter.resume(path, config(4), LAYOUT, methods=[*METHODS, ADDED]) as writer:
        intrude()
        monkeypatch.undo()
        write_all(writer, [*METHODS, ADDED])
    assert len(refused) >= 6


@pytest.mark.parametrize("how", ["begin", "merge"])
def test_a_file_that_came_meanwhile_stays(path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    other = path.with_name("new.h5")
    before(monkeypatch, whole, "_put_in_place", lambda: shutil.copyfile(path, other) and None)
    write = {
        "begin": lambda: EvaluationWriter.create(other, config(4), LAYOUT, range(4)),
        "merge": lambda: merge([path], other),
    }[how]
    with pytest.raises(OutputError, match="somebody else has made it meanwhile"):
        write()
    monkeypatch.undo()
    assert_same(path, other)
    assert sorted(os.listdir(path.parent)) == ["new.h5", "run.h5"]


def test_a_lock_is_on_the_file_that_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking another file was put in its place: a lock on the old one would guard nothing."""
    real, count = opening.take, []

    def late(place: Path, *args: Any, **kwargs: Any) -> Any:
        lock = real(place, *args, **kwargs)
        count.append(place)
        if len(count) == 1:
            copy = shutil.copyfile(path, path.with_name("copy.h5"))
            os.replace(copy, path)
        return lock

    monkeypatch.setattr(opening, "take", late)
    with EvaluationWriter.resume(path, config(4), LAYOUT):
        assert len(count) == 2
        with pytest.raises(BusyError):
            EvaluationWriter.resume(path, config(4), LAYOUT)


def test_a_link_to_a_file_stays_one(path: Path) -> None:
    link = path.with_name("link.h5")
    link.symlink_to(path.name)
    with EvaluationWriter.resume(link, config(4), LAYOUT, methods=[*METHODS, ADDED]) as writer:
        write_all(writer, [*METHODS, ADDED])
    assert link.is_symlink()
    assert "methods/added/gae" in contents(path)
    with written_whole(link) as part:
        part.write_text("text")
    assert link.is_symlink()
    assert path.read_text() == "text"


KILLED = """
import os, sys
from pathlib import Path
from relprop.files import whole
from relprop.store import EvaluationWriter
from tests.faults.jobs import ADDED
from tests.helpers.store_files import LAYOUT, METHODS, config
def kill(*_): os.kill(os.getpid(), 9)
if sys.argv[2] == "before": whole._put_in_place = kill
else: Path.unlink = kill
path = Path(sys.argv[1])
if path.exists(): EvaluationWriter.resume(path, config(4), LAYOUT, methods=[*METHODS, ADDED])
else: EvaluationWriter.create(path, config(4), LAYOUT, range(4), methods=METHODS)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("there", [False, True])
def test_what_a_kill_leaves_is_gone_after_the_next_start(path: Path, moment: str, there: bool) -> None:
    if not there:
        path.unlink()
    process = python(KILLED, path, moment)
    assert process.communicate()[1] == ""
    assert process.returncode == -signal.SIGKILL
    if moment == "before" or not there:
        assert any(name.startswith(".") for name in os.listdir(path.parent))
    if path.exists():
        EvaluationWriter.resume(path, config(4), LAYOUT).close()
    else:
        EvaluationWriter.create(path, config(4), LAYOUT, range(4), methods=METHODS).close()
    assert os.listdir(path.parent) == ["run.h5"]


LOCKED_BY_HDF5 = """
import sys
from relprop.store import *
from tests.faults.jobs import ADDED
from tests.helpers.store_files import LAYOUT, METHODS, config, write_all
with EvaluationWriter.resume(sys.argv[1], config(4), LAYOUT, methods=[*METHODS, ADDED]) as writer:
    try: open_evaluation(sys.argv[1])
    except BusyError: write_all(writer, [*METHODS, ADDED])
with EvaluationWriter.create(sys.argv[1], config(4), LAYOUT, range(4), methods=METHODS, overwrite=True) as writer:
    write_all(writer)
print("written")
"""


def test_where_hdf5_locks_by_itself_it_is_let(path: Path) -> None:
    said, errors = python(LOCKED_BY_HDF5, path, env={"HDF5_USE_FILE_LOCKING": "TRUE"}).communicate()
    assert (said.strip(), errors) == ("written", "")
    assert os.listdir(path.parent) == ["run.h5"]


TOGETHER = """
    import sys, time
    from relprop.store import *
    from tests.helpers.store_files import LAYOUT, METHODS, config, write_all
    while time.time() < float(sys.argv[2]): pass
    try:
        with EvaluationWriter.create(sys.argv[1], config(4), LAYOUT, range(4), methods=METHODS, overwrite=True) as w:
            write_all(w)
        print("written")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.full
def test_writers_that_begin_at_once_are_told(tmp_path: Path) -> None:
    import time

    said: list[str] = []
    for _ in range(5):
        start = str(time.time() + 2)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", dedent(TOGETHER), str(tmp_path / "run.h5"), start],
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        said += [process.communicate()[0].strip() for process in processes]
    words = ("written", "BusyError", "OutputError cannot write")
    assert all(line.startswith(words) and "unavailable" not in line for line in said), said
    assert "written" in said
