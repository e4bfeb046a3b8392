"""What was not written is never read: files are compared with their checksums, and damage is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

import relprop
from relprop.cli import app
from relprop.store import (
    ConfigurationError,
    DamageError,
    EvaluationWriter,
    Method,
    open_evaluation,
    survey,
)
from relprop.store.hdf5 import seal
from tests.helpers.cli import run as command
from tests.helpers.paths import ROOT
from tests.helpers.store_files import (
    LAYOUT,
    METHODS,
    assert_same,
    config,
    flipped,
    place_of,
    write_all,
    write_file,
)

ROWS = 800
"""Enough that some blocks hold nothing but the values of one score."""
OLD = ROOT / "tests" / "golden" / "evaluation-v1.h5"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.h5"
    with EvaluationWriter.create(path, config(ROWS), LAYOUT, range(ROWS), methods=METHODS) as writer:
        write_all(writer, unit=ROWS)
    return path


def test_the_checksums_are_those_of_the_bytes_and_other_programs_do_not_mind_them(whole: Path) -> None:
    content = whole.read_bytes()
    with whole.open("rb") as file:
        found = seal.read_seal(file.fileno(), whole)
    assert found is not None
    assert len(found.checksums) == -(-found.end // seal.BLOCK)
    assert len(content) == found.end + 4 * len(found.checksums) + 32
    assert len(content) < 1.05 * found.end
    (tmp := whole.with_name("plain.h5")).write_bytes(content[: found.end])
    assert_same(whole, tmp)
    with h5py.File(whole) as plain, open_evaluation(whole) as checked:
        assert plain.driver == "sec2"
        assert checked.driver == "fileobj"
        assert checked.filename == str(whole)


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize(
    ("name", "row", "read"),
    [
        ("methods/absLRP/maps/relevance", 307, lambda results: results["absLRP"].relevance()),
        ("methods/absLRP/gae", 300, lambda results: results["absLRP"].score("gae")),
        ("samples/steps", 302, lambda results: results.steps()),
        ("samples/name", 311, lambda results: results.samples),
    ],
)
def test_damage_is_named_and_all_else_is_read(
    large: Path, tmp_path: Path, name: str, row: int, read: Callable[[relprop.Results], Any]
) -> None:
    path = flipped(large, tmp_path / "run.h5", place_of(large, name, row))
    found = survey(path)
    assert not found.sound
    assert row in {sample for damage in found.damage if damage.where == name for sample in damage.samples or ()}
    told = command.invoke(app, ["validate", str(path)])
    assert told.exit_code == 1
    assert name in told.stdout
    with open_evaluation(path) as file, pytest.raises(DamageError, match=r"bytes \d+ to \d+ are not"):
        file[name][:]
    with relprop.Results(path) as results, pytest.raises(DamageError, match=rf"damaged in {name} of samples? .*\d"):
        read(results)
    with relprop.Results(path) as results:
        assert len(results["constant"].score("gae")) == ROWS


def test_no_damaged_run_is_gone_on_with_and_it_stays_as_it_is(large: Path, tmp_path: Path) -> None:
    path = flipped(large, tmp_path / "run.h5", place_of(large, "methods/absLRP/gae", 300))
    before = path.read_bytes()
    with pytest.raises(DamageError, match=r"methods/absLRP/gae of samples \d+, .* and 249 more"):
        EvaluationWriter.resume(path, config(ROWS), LAYOUT)
    assert path.read_bytes() == before


def test_damaged_checksums_are_told(whole: Path, tmp_path: Path) -> None:
    size = whole.stat().st_size
    for place in (size - 32, size - 20, size - 33):  # the end, the checksum, the table
        path = flipped(whole, tmp_path / "run.h5", place)
        with pytest.raises(DamageError, match="damaged in its checksums"):
            survey(path)
        with pytest.raises(DamageError, match="damaged in its checksums"):
            EvaluationWriter.resume(path, config(12), LAYOUT)


def test_a_writer_takes_the_seal_off_and_puts_it_on(tmp_path: Path) -> None:
    path = write_file(tmp_path / "run.h5", range(8), config(8))
    sealed = path.read_bytes()
    with pytest.raises(ConfigurationError):
        EvaluationWriter.resume(path, config(8, seed=1), LAYOUT)
    assert path.read_bytes() == sealed
    with EvaluationWriter.resume(path, config(8), LAYOUT):
        killed = path.read_bytes()  # what a kill leaves
    assert survey(path).checked
    (tmp_path / "killed.h5").write_bytes(killed)
    found = survey(tmp_path / "killed.h5")
    assert (found.checked, found.sound) == (False, True)
    assert "unchecked: its writer was killed" in str(found)
    methods = (*METHODS, Method("more", {}))
    with EvaluationWriter.resume(tmp_path / "killed.h5", config(8), LAYOUT, methods=methods) as writer:
        write_all(writer, methods)
    assert survey(tmp_path / "killed.h5").checked


def test_files_of_format_1_stay_what_they_are(tmp_path: Path) -> None:
    path = Path(shutil.copyfile(OLD, tmp_path / "old.h5"))
    found = survey(path)
    assert (found.format_version, found.checked, found.sound) == (1, False, True)
    assert "unchecked: format 1 has no checksums" in str(found)
    methods = (*METHODS, Method("more", {}))
    with EvaluationWriter.resume(path, config(4), LAYOUT, methods=methods) as writer:
        write_all(writer, methods)
    found = survey(path)
    assert (found.format_version, found.checked, found.complete) == (1, False, True)
    assert command.invoke(app, ["validate", str(path)]).exit_code == 0
