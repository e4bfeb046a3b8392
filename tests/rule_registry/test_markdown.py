"""The tables of operations and rules, against the registry they are made from."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import rule_registry
from relprop.cli import app
from relprop.cli.lists import BEGIN, END
from rule_registry import Call, Relevances, blocks, passes, registry, select
from rule_registry.markdown import tables

pytestmark = pytest.mark.usefixtures("own_registry")
aten = torch.ops.aten
BLOCKS = "Block: no relevance reaches the inputs."


def rows(table: int) -> list[list[str]]:
    """The cells of one of the two tables."""
    lines = tables().split("\n\n")[table].splitlines()[2:]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]


def names(cell: str) -> list[str]:
    """The operations in a cell, as the registry names them but for the overload."""
    found = []
    for name in re.findall("`([^`]+)`", cell):
        stem = re.fullmatch(r"(.*?)((?:[123]d/)*[123]d)(.*)", name)
        found += [stem[1] + dims + stem[3] for dims in stem[2].split("/")] if stem else [name]
    return found


def row_of(operation: str) -> list[str]:
    (row,) = [row for row in rows(0) if operation in names(row[0])]
    return row


def own_rules(rule_set: str) -> list[list[str]]:
    """The rows of a rule set in the second table."""
    found, current = [], ""
    for row in rows(1):
        current = row[0].strip("`") or current
        found += [row] if current == rule_set else []
    return found


def halved(call: Call, relevance: Tensor) -> Relevances:
    """Half of it: ``|R| / 2``.

    More is said here.
    """
    return relevance / 2


def test_every_operation_is_there_once() -> None:
    listed = [name for row in rows(0) for name in names(row[0])]
    assert len(listed) == len(set(listed))
    ops = {op for name in ("abslrp", "epsilon") for op in rule_registry.get(name).table}
    assert set(listed) == {str(op).split(".")[1] for op in ops if op.namespace == "aten"}


def test_every_rule_set_is_there() -> None:
    told = {row[0].strip("`") for row in rows(1)} - {""}
    assert told | {"abslrp", "epsilon", "abslrp-released", "abslrp-paper"} == set(rule_registry.names())
    paper, released = tables().split("\n\n")[2:4]
    assert paper.startswith("`abslrp-paper` has rules for `linear`, `conv1d/2d/3d`, ")
    assert released.startswith("`abslrp-released` has rules for `linear`, `conv1d/2d/3d`, ")


@pytest.mark.full
def test_each_row_says_what_the_rule_sets_do() -> None:
    described = dict.fromkeys(("abslrp", "epsilon"), 0)
    moved = registry.defined()["structural"].table
    for (name, column), op in product(zip(described, (1, 2), strict=True), rule_registry.get("abslrp").table):
        if op.namespace != "aten":
            continue
        row, rule = row_of(str(op).split(".")[1]), rule_registry.get(name).table[op]
        text = row[1] if row[column] == "the same" else row[column]
        if op not in moved:
            assert text == rule.summary, op
            described[name] += 1
    assert all(count > 80 for count in described.values())


def test_rules_of_operations_alike_share_a_row() -> None:
    assert row_of("gelu") == row_of("relu")
    assert row_of("gelu")[1:] == ["Pass unchanged.", "the same"]
    assert row_of("softmax")[1:] == ["Pass unchanged.", rule_registry.get("epsilon").table[aten.softmax.int].summary]
    assert row_of("permute") == row_of("cat") != row_of("clone")


def test_rule_sets_are_told_by_what_they_change() -> None:
    layers = "`linear`, `conv1d/2d/3d`, `conv_transpose1d/2d/3d`"
    assert own_rules("z-plus") == [["`z-plus`", "`alpha-beta` with alpha=1, beta=0", "", ""]]
    assert own_rules("epsilon-plus-flat") == [
        ["`epsilon-plus-flat`", "`epsilon-plus`", f"layer first: {layers}", "as of `flat`"]
    ]
    box = own_rules("epsilon-gamma-box")
    assert [row[3] for row in box] == ["as of `gamma`", "as of `z-box`"]
    assert [row[0] for row in box] == ["`epsilon-gamma-box`", ""]
    assert [row[2] for row in own_rules("attnlrp")] == [
        "`conv1d/2d/3d`, `conv_transpose1d/2d/3d`",
        "attention outside: `linear`, `matmul`, `mm`, `bmm`, `addmm`, `baddbmm`",
    ]
    assert own_rules("cp-lrp")[0] == ["`cp-lrp`", "`attnlrp`", "attention inside: `softmax`, `_softmax`", BLOCKS]
    assert own_rules("gradient")[-1][2:] == ["anything else", rule_registry.get("gradient").default.summary]


def test_what_is_registered_shows_up() -> None:
    rule_registry.define("mine", "…", base="epsilon", default=passes, parameters={"low": 0.0}, fixed={"high": (1.0, 2)})
    rule_registry.register("mine", aten.relu.default, select(path="a.*", module="B"), rule=halved)
    rule_registry.register("mine", select(op=aten.gelu.default, layer="last"), rule=blocks)
    rule_registry.register("abslrp", aten.digamma.default, rule=halved)
    assert own_rules("mine") == [
        ["`mine`", "`epsilon` with high=(1, 2)", "`relu`", "Half of it: ``|R| / 2``."],
        ["", "", "path a.*, module B", "Half of it: ``|R| / 2``."],
        ["", "", "layer last: `gelu`", BLOCKS],
        ["", "", "anything else", "Pass unchanged."],
    ]
    assert row_of("digamma")[1:] == ["Half of it: ``|R| / 2``.", "no rule"]
    rule_registry.register("epsilon", aten.erfinv.default, rule=halved)
    assert own_rules("mine")[0][3] == "as of `epsilon`"
    assert row_of("erfinv")[1:] == ["no rule", "Half of it: ``|R| / 2``."]


def test_a_rule_without_documentation_is_told_by_its_name() -> None:
    rule_registry.register("abslrp", aten.digamma.default)(lambda call, relevance: relevance)
    assert row_of("digamma")[1] == "<lambda>"


@pytest.mark.parametrize("after", ["\nafter\n", ""])
def test_the_command_writes_between_its_marks(tmp_path: Path, after: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before ✓\n{BEGIN}\nold\n{END}{after}", encoding="utf-8")
    result = CliRunner().invoke(app, ["rules", "--markdown", str(page)])
    assert (result.exit_code, result.output) == (0, "")
    assert page.read_text(encoding="utf-8") == f"before ✓\n{BEGIN}\n{tables()}\n{END}{after}"


def test_the_command_writes_about_all_rule_sets_or_shows_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["rules", "gamma", "--markdown", str(tmp_path / "page.md")])
    assert result.exit_code == 2
    assert "NAME" in result.stderr


@pytest.mark.parametrize("text", ["nothing", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", None])
def test_a_page_without_marks_is_left_alone(tmp_path: Path, text: str | None) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    result = CliRunner().invoke(app, ["rules", "--markdown", str(page)])
    assert result.exit_code == 1
    assert re.fullmatch(r"relprop: --markdown .*page\.md: .*\n", result.stderr)
    assert text is None or (BEGIN in result.stderr and page.read_text() == text)
