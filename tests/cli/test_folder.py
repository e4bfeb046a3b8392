"""The folder that relprop explain writes to: its tree, runs that follow each other, runs at once."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from relprop.cli.explaining.folder import OutputFolder, mirrored, results_among
from relprop.files import OutputError
from relprop.files.lines import LineFile
from tests.helpers.cli import assert_one_line, entries, explain

OWN = ("--model", "own:make")


def tree(folder="out"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.full
def test_results_lie_as_the_pictures_lie_and_a_second_run_adds_to_them(desk):
    (Path("holiday") / "sub" / "a.png").write_bytes(Path("holiday/a.png").read_bytes())
    result = explain("holiday", *OWN, "-q")
    assert (result.exit_code, result.output) == (0, "")
    assert tree() == ["a.png", "index.jsonl", "run.toml", "sub/a-2.png", "sub/a.png"]
    first = entries()
    assert [entry["paths"]["png"] for entry in first] == ["a.png", "sub/a.png", "sub/a-2.png"]

    again = explain("out", "cat.jpg", *OWN, "-o", "other")
    assert again.exit_code == 0
    assert "left out: 3 results of an earlier run" in again.stderr
    assert [entry["file"] for entry in entries("other")] == ["cat.jpg"]

    assert explain("holiday/a.png", *OWN).exit_code == 0
    assert entries()[:3] == first
    assert entries()[3]["paths"] == {"png": "a-2.png"}

    Path("out/mine.png").write_bytes(b"of the user")
    assert explain("cat.jpg", *OWN, "--overwrite").exit_code == 0
    assert tree() == ["cat.png", "index.jsonl", "mine.png", "run.toml"], "what the index listed went, nothing else"
    assert len(entries()) == 1


def test_two_runs_at_once_are_refused(desk):
    with OutputFolder(Path("out"), []):
        assert_one_line(explain("cat.jpg", "--model", "no_such_model"), "out is being written by another relprop")
    assert not Path("out").exists(), "it came to no result"


def test_several_folders_have_their_names():
    given = [Path("a/cats"), Path("b"), Path("c/x.png")]
    for folder in given[:2]:
        folder.mkdir(parents=True)
    paths = [Path("a/cats/old/1.png"), Path("b/1.png"), Path("c/x.png")]
    assert list(mirrored(paths, given).values()) == [Path("cats/old"), Path("b"), Path()]
    assert list(mirrored(paths[:1], given[:1]).values()) == [Path("old")]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_line_that_a_kill_cut_is_dropped():
    Path("out").mkdir()
    Path("out/index.jsonl").write_text('{"file": "a.png"}\n{"file": "b.p')
    with OutputFolder(Path("out"), []) as folder:
        folder.record({"file": "c.png"})
    assert [json.loads(line)["file"] for line in folder.index.read_text().splitlines()] == ["a.png", "c.png"]


def test_overwriting_removes_nothing_outside_no_picture_and_nothing_before_a_result():
    Path("out").mkdir()
    kept = [Path(name) for name in ("photo.png", "out/input.png", "out/notes.txt")]
    for path in kept:
        path.write_bytes(b"precious")
    paths = {"png": "../photo.png", "npz": "input.png", "h5": "notes.txt"}
    Path("out/index.jsonl").write_text(json.dumps({"paths": paths}) + "\n")
    with OutputFolder(Path("out"), [Path("out/input.png")], overwrite=True):
        pass
    assert entries(), "nothing was written, so nothing went"
    with OutputFolder(Path("out"), [Path("out/input.png")], overwrite=True) as folder:
        assert folder.free_name(Path("input")) == Path("input-2")
        folder.record({"file": "new.png"})
    assert all(path.read_bytes() == b"precious" for path in kept)
    assert len(entries()) == 1


def test_results_are_found_by_the_index_above_them():
    for name in ("out/sub/a.png", "out/sub/b.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, np.zeros((2, 2, 3), np.uint8))
    Path("out/index.jsonl").write_text(json.dumps({"paths": {"png": "sub/a.png"}}) + "\n")
    inside = Path("out/sub/a.png").absolute()
    assert results_among([Path("out/sub/a.png"), Path("out/sub/b.png"), inside]) == {Path("out/sub/a.png"), inside}


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    Path("file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(OutputError, match="cannot write to"), OutputFolder(Path(place), []):
            pass
    assert os.listdir() == ["file"]


def test_a_line_that_can_not_be_written_takes_the_files_that_no_line_lists(tmp_path, monkeypatch):
    add, done = LineFile.add, []

    def full(lines, values):
        if len(done) == 2:
            raise OutputError("no room")
        done.append(values)
        add(lines, values)

    monkeypatch.setattr(LineFile, "add", full)
    first, second = {"png": "a.png"}, {"png": "b.png"}
    with OutputFolder(tmp_path / "out", []) as folder:
        for name in ("a.png", "b.png"):
            (folder.path / name).write_bytes(b"map")
        for target in (1, 2):
            folder.record({"target": target, "paths": first})
        with pytest.raises(OutputError, match="no room"):
            folder.record({"target": 3, "paths": first})
        assert tree(tmp_path / "out") == ["a.png", "b.png", "index.jsonl"]
        with pytest.raises(OutputError, match="no room"):
            folder.record({"target": 1, "paths": second})
    assert tree(tmp_path / "out") == ["a.png", "index.jsonl"]
