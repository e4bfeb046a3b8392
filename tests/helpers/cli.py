"""Calls of the command line, and what is asserted of them."""

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from relprop.cli import app

run = CliRunner()


def explain(*arguments):
    return run.invoke(app, ["explain", *arguments])


def entries(folder="out"):
    return [json.loads(line) for line in Path(folder, "index.jsonl").read_text().splitlines()]


def assert_one_line(result, message, code=1):
    assert result.exit_code == code, result.output
    assert result.stdout == "", result.stdout
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.startswith("relprop: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
