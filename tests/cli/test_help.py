"""What help says, and what a command says that was not understood."""

from __future__ import annotations

import re

import pytest

from relprop.cli import app
from relprop.cli.app import ORDER
from tests.helpers.cli import run


def help_of(*command: str) -> str:
    result = run.invoke(app, [*command, "-h"])
    assert result.exit_code == 0
    return result.output


def test_the_list_of_commands_begins_with_what_people_begin_with_and_cuts_no_line():
    listed = re.findall(r"^  (\w+)  +(\w.*)$", help_of().partition("Commands:")[2], re.MULTILINE)
    assert [name for name, _ in listed] == list(ORDER)
    assert all(len(words) < 55 and words.endswith(".") and "..." not in words for _, words in listed)


@pytest.mark.parametrize("command", ORDER)
def test_help_has_metavars_alone(command):
    text = help_of(command)
    assert not re.search(r"<(?!!--)|\{|\[\[|\]\]", text.partition("Example:")[0])
    assert text.rstrip().splitlines()[-1].startswith("  ")
    assert "Example: relprop" in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("explain", "explain [OPTIONS] [PICTURES]..."),
        ("explain", "--format png|npz|h5 "),
        ("explain", "which pixels matter more (red) or less (blue) for the class than for the others."),
        (
            "explain",
            "What the class is compared with: all others (rest), what the model confuses it with (log-odds), "
            "one class, or nothing (none)",
        ),
        ("evaluate", "--relevance none|map|channels "),
        ("merge", "merge [OPTIONS] SHARD..."),
        ("compare", "compare [OPTIONS] FILE A [B]..."),
        ("", "--version Show the versions of relprop and of the libraries it uses."),
    ],
)
def test_help_says(command, words):
    assert re.sub(r"\s", "", words) in re.sub(r"\s", "", help_of(*filter(None, [command])))


@pytest.mark.parametrize(
    ("command", "new", "old"),
    [
        ("explain", "--class-names FILE", "--labels"),
        ("evaluate", "--class-names FILE", "--labels"),
        ("evaluate", "-m, --method NAME", "--methods"),
        ("summary", "-m, --method NAME", ""),
        ("compare", "-m, --method NAME", ""),
        ("plot", "-m, --method NAME", ""),
        ("export", "-m, --method NAME", ""),
    ],
)
def test_a_word_means_one_thing_and_old_spellings_are_hidden(command, new, old):
    text = re.sub(r"\s+", " ", help_of(command))
    assert new in text
    if old:
        assert old not in text
        result = run.invoke(app, [command, old, "nowhere.txt", "--model", "nowhere"])
        assert "No such option" not in result.stderr


def test_methods_are_listed_with_their_options():
    result = run.invoke(app, ["methods"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "delta" in lines["abslrp"]
    assert "random" in lines
    assert "path=FILE, key=NAME" in lines["maps"]
    assert "n_steps" in lines["captum.IntegratedGradients"]
    assert "eigen_smooth" in lines["grad-cam.GradCAM"]
    assert "canonizer" in lines["zennit.EpsilonPlusFlat"]
    few = run.invoke(app, ["methods", "captum.integratedg*"]).stdout
    assert [line for line in few.splitlines() if line.startswith("  ")] == [lines["captum.IntegratedGradients"]]
    wrong = run.invoke(app, ["methods", "captum.Integrate*Grad"])
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "no method matches" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explian"], "relprop: No such command 'explian'. Did you mean 'explain'? See root --help"),
        (
            ["explain", "--format", "pdf"],
            "relprop: Invalid value for '--format': 'pdf' is not one of 'png', 'npz', 'h5', 'shards', 'webdataset'. "
            "See root explain --help",
        ),
    ],
)
def test_what_is_not_understood_is_one_sentence_and_a_way_on(arguments, words):
    result = run.invoke(app, arguments)  # which calls the program "root"
    assert (result.exit_code, result.stderr.strip()) == (2, words)
