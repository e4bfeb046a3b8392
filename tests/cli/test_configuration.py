"""Options from a file, and the file that repeats a run; classes side by side; what is said, and what not."""

import tomllib
from pathlib import Path

import pytest

from relprop.cli import app
from relprop.cli.words import split_words
from tests.helpers.cli import assert_one_line, entries, explain, run


@pytest.mark.full
def test_a_run_is_repeated_by_the_file_beside_its_results(desk):
    options = ["--model", "own.py:make", "--target", "1,3", "--target", "class 0", "--contrast", "none"]
    assert explain("cat.jpg", "holiday", *options, "--format", "npz,png", "--layer", "0,2", "-q").exit_code == 0
    first = tomllib.loads(Path("out/run.toml").read_text())["explain"]
    assert first["pictures"] == ["cat.jpg", "holiday"]
    assert first["format"] == ["npz", "png"]
    assert first["batch-size"] == 8, "what was not said is there too"
    again = explain("--config", "out/run.toml", "-o", "again")
    assert again.exit_code == 0, again.output
    for name in ("file", "target", "probability", "paths", "contrast"):
        assert [entry[name] for entry in entries("again")] == [entry[name] for entry in entries()]
    assert [entry["target"] for entry in entries()][:3] == [1, 3, 0], "classes stand in the order they were named"
    second = tomllib.loads(Path("again/run.toml").read_text())["explain"]
    assert second == first | {"output": "again"}


def test_the_command_line_goes_before_a_file_and_a_table_before_its_top(desk):
    Path("mine.toml").write_text(
        'model = "own:make"\nbatch_size = 2\n[explain]\nbatch-size = 4\nlabels = "names.txt"\ntarget = "bee"\n[check]\n'
    )
    Path("names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    assert explain("cat.jpg", "--config", "mine.toml", "--target", "Cat").exit_code == 0
    assert [entry["label"] for entry in entries()] == ["cat"]
    found = tomllib.loads(Path("out/run.toml").read_text())["explain"]
    assert (found["batch-size"], found["class-names"], found["target"]) == (4, "names.txt", ["Cat"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'x'", r"bad.toml: explain has no option 'modle'; near names: model"),
        ("model = ", "cannot read bad.toml: "),
        ("model = ['a', 'b']", r"model is one value, not \['a', 'b'\]"),
        ("target = 3", "target is a list, not 3"),
        ("batch_size = 'many'", "Invalid value for '--batch-size'"),
        ("explain = 1", "explain is a table of options"),
        (None, "cannot read bad.toml: No such file"),
    ],
)
def test_a_file_that_is_wrong_is_told_at_once(desk, text, message):
    if text is not None:
        Path("bad.toml").write_text(text)
    assert_one_line(explain("cat.jpg", "--config", "bad.toml"), message, code=2)


def test_verbose_says_what_takes_how_long_and_quiet_says_nothing(desk):
    loud = explain("cat.jpg", "--model", "own:make", "-v")
    assert loud.exit_code == 0
    assert "relprop: model own:make on cpu, weights: function own:make" in loud.stderr
    assert "relprop: 1 explanations in " in loud.stderr
    quiet = explain("cat.jpg", "nowhere.jpg", "--model", "own:make", "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    assert quiet.stderr == "relprop: no such file or folder: nowhere.jpg\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell, monkeypatch):
    result = run.invoke(
        app,
        [],
        env={"_RELPROP_COMPLETE": f"complete_{shell}", "COMP_WORDS": "relprop exp", "COMP_CWORD": "1",
             "_TYPER_COMPLETE_ARGS": "relprop exp", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        prog_name="relprop",
    )  # fmt: skip
    assert "explain" in result.stdout
    assert "export" in result.stdout
    assert "evaluate" not in result.stdout


def test_lists_are_cut_at_commas_outside_of_brackets():
    assert split_words("blocks.[0,2], head,,x") == ["blocks.[0,2]", "head", "x"]
