"""A writer killed between any two of the writes that HDF5 asks of the system leaves a file that is whole.

The writes of a run are recorded and done again up to each of many points, which is all that a SIGKILL can leave.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from relprop.files.locking import Lock
from relprop.store import EvaluationWriter, Method, State, is_complete, open_evaluation, validate
from relprop.store.hdf5 import crash_repair
from relprop.store.writing import create, writer
from relprop.store.writing.writable_file import WritableFile
from tests.helpers.store_files import LAYOUT, METHODS, config, method_rows, sample_rows, write_all

SAMPLES = 70  # a node of a chunks' index has 64 entries at most
POINTS = 12


@dataclass
class Recording:
    """A file for HDF5, and what was done to it: writes (place, bytes) and lengths."""

    path: Path
    done: list[tuple[int, bytes | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file = self.path.open("r+b", buffering=0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        self.done.append((self._file.tell(), bytes(data)))
        return self._file.write(data)

    def truncate(self, size: int) -> int:
        self.done.append((size, None))
        return self._file.truncate(size)

    def reserve(self, file: h5py.File, path: Path, size: int) -> None:
        """As `relprop.store.hdf5.disk_space.reserve`."""
        self.truncate(max(file.id.get_filesize(), os.fstat(self._file.fileno()).st_size) + size + size // 8)


def prefixes(start: bytes, done: list[tuple[int, bytes | None]]) -> Iterator[bytearray]:
    """Yield what the file is before each step."""
    content = bytearray(start)
    for place, data in done:
        yield content
        end = place if data is None else place + len(data)
        content.extend(bytes(max(0, end - len(content))))
        if data is None:
            del content[end:]
        else:
            content[place:end] = data


def assert_committed(file: h5py.File) -> int:
    """Compare the rows whose state says done with what was written, and count them."""
    expected = {"samples": sample_rows(range(SAMPLES))}
    expected |= {f"methods/{method.name}": method_rows(range(SAMPLES), method) for method in METHODS}
    count = 0
    for where, columns in expected.items():
        group = file[where]
        rows = np.flatnonzero(group["state"][:] == State.DONE)
        count += len(rows)
        for name, values in columns.items():
            if name == "relevance":
                some = rows[::5]
                kept = [group["maps/relevance"][row] * group["maps/scale"][row] for row in some.tolist()]
                wanted = np.array(values).reshape(SAMPLES, -1)[some]
                np.testing.assert_allclose(np.reshape(kept, wanted.shape), wanted, rtol=0, atol=1e-8)
            elif name == "name":
                assert group[name].asstr()[:][rows].tolist() == [values[row] for row in rows]
            else:
                data = group[name]
                some = rows[::5] if data.chunks else rows
                found = np.array([data[row] for row in some.tolist()] if data.chunks else data[:][some])
                np.testing.assert_array_equal(found, np.asarray(values, data.dtype)[some].reshape(found.shape))
    return count


@pytest.mark.full
def test_a_run_killed_between_any_two_writes_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, killed = tmp_path / "run.h5", tmp_path / "killed.h5"
    EvaluationWriter.create(path, config(SAMPLES), LAYOUT, range(SAMPLES), methods=METHODS).close()
    start = path.read_bytes()
    recording = Recording(path)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "reserve", recording.reserve)
        with h5py.File(recording, "r+") as file:
            write_all(EvaluationWriter(WritableFile(path, file, Lock(None, False))), unit=10)
    with open_evaluation(path) as file:
        assert assert_committed(file) == 3 * SAMPLES
    chosen = set(np.linspace(0, len(recording.done) - 1, POINTS).astype(int).tolist())
    before, torn_ends = 0, 0
    for point, content in enumerate(prefixes(start, recording.done)):
        if point not in chosen:
            continue
        killed.write_bytes(content)
        torn_ends += len(content) > int.from_bytes(content[crash_repair.END], "little")
        with open_evaluation(killed) as file:
            validate(file)
            count = assert_committed(file)
            assert is_complete(file) <= (count == 3 * SAMPLES)
        assert count >= before
        before = count
        with EvaluationWriter.resume(killed, config(SAMPLES), LAYOUT, methods=METHODS) as resumed:
            write_all(resumed, unit=35)
        with open_evaluation(killed) as file:
            validate(file)
            assert is_complete(file)
            assert assert_committed(file) == 3 * SAMPLES, point
    assert torn_ends > POINTS // 2, "few points were inside a flush"


def test_methods_come_in_a_copy_and_a_kill_before_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    with EvaluationWriter.create(path, config(SAMPLES), LAYOUT, range(SAMPLES), methods=METHODS) as whole:
        write_all(whole, unit=35)
    content = path.read_bytes()

    class Killed(BaseException):
        pass

    def kill(copy: Path, named: Path) -> None:
        with h5py.File(copy, locking=False) as file:  # all is done but to put it in its place
            assert "more" in file["methods"]
        assert path.read_bytes()[crash_repair.CHECKSUM.stop :] == content[crash_repair.CHECKSUM.stop :]
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(create, "trim", kill)
        with pytest.raises(Killed):
            EvaluationWriter.resume(path, config(SAMPLES), LAYOUT, methods=[Method("more", {}), Method("other", {})])
    with open_evaluation(path) as file:
        validate(file)
        assert is_complete(file)
        assert assert_committed(file) == 3 * SAMPLES
    with EvaluationWriter.resume(path, config(SAMPLES), LAYOUT, methods=[Method("more", {})]) as resumed:
        assert not resumed.method_states("more").any()
    with open_evaluation(path) as file:
        assert not is_complete(file)
        assert assert_committed(file) == 3 * SAMPLES


def test_the_checksum_is_that_of_hdf5_and_of_its_author(tmp_path: Path) -> None:
    assert crash_repair.checksum(b"") == 0xDEADBEEF
    assert crash_repair.checksum(b"Four score and seven years ago") == 0x17770551  # the examples in lookup3.c
    EvaluationWriter.create(tmp_path / "run.h5", config(3), LAYOUT, range(3)).close()
    block = (tmp_path / "run.h5").read_bytes()[: crash_repair.CHECKSUM.stop]
    assert crash_repair.checksum(block[: crash_repair.CHECKSUM.start]) == int.from_bytes(
        block[crash_repair.CHECKSUM], "little"
    )
