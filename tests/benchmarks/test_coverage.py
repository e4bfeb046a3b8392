"""The sweep over the zoo: rows come one by one, whatever a model does to the process that measures it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import rule_registry
from benchmarks import peers
from benchmarks.__main__ import app
from benchmarks.coverage import measure as measuring
from benchmarks.coverage.measure import PEERS, CoverageRow, measure
from benchmarks.coverage.sweep import Summary, names_in, sweep, sweep_peers
from benchmarks.records.ledger import Ledger, LedgerError
from benchmarks.records.tables import columns
from benchmarks.workers import Worker, WorkerError
from benchmarks.zoo import choose, timm_models, zoo
from benchmarks.zoo.entries import Entry, Subject
from relprop.run.conservation import Conservation


class Odd(nn.Module):
    """A linear layer behind some function of the pictures."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(x).flatten(1))


def build(function: Callable[[Tensor], Tensor], samples: int) -> Subject:
    torch.manual_seed(0)
    return Subject(Odd(function).eval(), torch.randn(samples, 3, 2, 2))


def branches(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def refuses(samples: int) -> Subject:
    raise ValueError("no such width\nand more")


def entry(name: str, function: Callable[[Tensor], Tensor] = torch.relu) -> Entry:
    return Entry("here", name, "odd", partial(build, function))


# What is measured


def test_a_model_that_passes() -> None:
    row = measure(entry("good"))
    assert (row.source, row.name, row.family, row.input) == ("here", "good", "odd", "3x2x2")
    assert row.error == ""
    assert row.uncovered == ""
    assert row.captured
    assert row.finite
    assert row.operations == 3
    assert row.forward_error == pytest.approx(0, abs=1e-6)
    assert row.oracle_error is not None
    assert row.oracle_error <= 1e-12
    assert row.conservation_error is not None
    assert row.conservation_error <= 1e-5
    assert row.seconds is not None
    assert row.seconds > 0


def test_a_wrong_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conservation, "error", property(lambda self: 0.5))
    monkeypatch.setattr(measuring, "gradient_oracle_error", lambda model, x, **_: 0.25 if len(x[0]) == 1 else 0.0)
    row = measure(entry("wrong"))
    assert (row.conservation_error, row.oracle_error) == (0.5, 0.25)


@pytest.mark.full
def test_an_operation_without_a_rule_is_named_and_the_rest_measured() -> None:
    row = measure(entry("uncovered", torch.special.i0))
    assert row.captured
    assert row.uncovered == "aten.i0.default"
    assert row.finite is None
    assert row.conservation_error is None
    assert row.oracle_error is not None
    assert row.oracle_error <= 1e-12
    assert row.error.startswith("explaining: relprop's limitation: MissingRuleError: rule set 'abslrp' has no rule")


@pytest.mark.full
def test_the_row_says_whose_limitation_it_is() -> None:
    row = measure(entry("branches", branches))
    assert not row.captured
    assert row.operations is None
    assert row.error.startswith("capture: torch.export's limitation: CaptureError: torch.export could not trace Odd")
    row = measure(entry("mixes", lambda x: x - x.mean(0, keepdim=True) + (x.flatten(1) @ x.flatten(1).T).sum()))
    assert row.error.startswith("capture: the model's limitation: CaptureError: samples of a batch are mixed")
    row = measure(Entry("here", "refuses", "odd", refuses))
    assert row.error == "making: here's limitation: ValueError: no such width"
    row = measure(entry("fails", lambda x: x @ x.new_zeros(7, 7)))
    assert row.error.startswith("capture: the model's limitation: InputError: Odd fails on an input")


def test_every_rule_set_has_a_rule_for_every_operation_of_abslrp() -> None:
    operations = set(rule_registry.get("abslrp").table)
    for name in rule_registry.names():
        rules = rule_registry.get(name)
        if rules.default is None and name not in ("abslrp-released", "abslrp-paper"):  # made for what the authors ran
            assert operations <= set(rules.table), name


# The sweep


class Scripted(Worker[Entry, CoverageRow]):
    """A worker without a process, that measures nothing: some names stand for its ends."""

    def __init__(self) -> None:
        super().__init__(measure)
        self.requested: list[str] = []
        self.stopped = False

    def __call__(self, entry: Entry) -> CoverageRow:
        self.requested.append(entry.name)
        if entry.name == "dies":
            raise WorkerError("its process\nwas killed")
        if entry.name == "breaks":
            raise ZeroDivisionError
        return CoverageRow(entry.source, entry.name, entry.family, "1", True, seconds=1.0)

    def stop(self) -> None:
        self.stopped = True


def test_failures_are_rows_and_a_rerun_measures_what_is_missing(tmp_path: Path) -> None:
    ledger, worker = Ledger(tmp_path / "rows.csv", CoverageRow), Scripted()
    sweep([entry("a"), entry("dies"), entry("b")], ledger, [worker])
    assert worker.requested == ["a", "dies", "b"]
    assert worker.stopped
    rows = {row["name"]: row for row in ledger.rows()}
    assert set(rows) == {"a", "dies", "b"}
    assert (rows["dies"]["error"], rows["dies"]["captured"]) == ("its process was killed", "False")
    before = ledger.path.read_bytes()
    again = Scripted()
    sweep([entry("dies"), entry("c"), entry("a")], ledger, [again])
    assert again.requested == ["c"]
    assert ledger.path.read_bytes().startswith(before)
    assert len(ledger.rows()) == 4


def test_what_breaks_the_sweep_itself_is_raised_and_workers_are_stopped(tmp_path: Path) -> None:
    ledger, workers = Ledger(tmp_path / "rows.csv", CoverageRow), [Scripted(), Scripted()]
    with pytest.raises(ZeroDivisionError):
        sweep([entry("breaks")], ledger, workers)
    assert all(worker.stopped for worker in workers)


def test_models_are_measured_by_all_workers(tmp_path: Path) -> None:
    ledger, workers = Ledger(tmp_path / "rows.csv", CoverageRow), [Scripted(), Scripted()]
    sweep([entry(name) for name in "abcdef"], ledger, workers)
    assert sorted(row["name"] for row in ledger.rows()) == list("abcdef")
    assert sorted(workers[0].requested + workers[1].requested) == list("abcdef")


class Request(Worker[Entry, dict[str, str]]):
    """A worker without a process that knows what peers say."""

    def __init__(self) -> None:
        super().__init__(lambda entry: {})

    def __call__(self, entry: Entry) -> dict[str, str]:
        if entry.name == "dies":
            raise WorkerError("its process\nwas killed")
        return dict.fromkeys(PEERS, f"ok for {entry.name}")

    def stop(self) -> None:
        pass


def test_peers_fill_rows_that_are_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "rows.csv", CoverageRow)
    for name in ("a", "dies", "other"):
        ledger.append(CoverageRow("here", name, "odd", oracle_error=1e-15, error="a, b"))
    ledger.append(CoverageRow("there", "a", "odd", captum="known"))
    entries = [entry("a"), entry("dies"), entry("not measured"), Entry("there", "a", "odd", refuses)]
    sweep_peers(entries, ledger, [Request()])
    rows = ledger.rows()
    assert [row["captum"] for row in rows] == ["ok for a", "error: its process was killed", "", "known"]
    assert [row["lxt"] for row in rows] == ["ok for a", "error: its process was killed", "", ""]
    assert {(row["error"], row["oracle_error"]) for row in rows[:3]} == {("a, b", "1e-15")}


def test_every_peer_has_a_column() -> None:
    assert [peer.name.lower() for peer in peers.PEERS] == list(PEERS)
    assert set(PEERS) <= set(columns(CoverageRow))


# The file


def test_a_torn_row_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.csv"
    ledger = Ledger(path, CoverageRow)
    ledger.append(CoverageRow("here", "a", "odd", error='commas, "quotes"\nand lines'))
    whole = path.read_bytes()
    path.write_bytes(whole + b"here,b,odd,3x2")
    again = Ledger(path, CoverageRow)
    assert path.read_bytes() == whole
    assert [row["error"] for row in again.rows()] == ['commas, "quotes" and lines']
    path.write_bytes(whole[:7])  # not even the header is whole
    assert Ledger(path, CoverageRow).rows() == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("name,seconds\na,1\n")
    with pytest.raises(LedgerError, match="other columns"):
        Ledger(path, CoverageRow)
    assert path.read_text() == "name,seconds\na,1\n"


def test_rows_can_be_dropped(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "rows.csv", CoverageRow)
    for name in ("vit_a", "vit_b", "resnet"):
        ledger.append(CoverageRow("here", name, "odd", oracle_error=1e-15, error="a, b"))
    ledger.keep(lambda row: not row["name"].startswith("vit"))
    assert [row["name"] for row in ledger.rows()] == ["resnet"]
    assert list(ledger.rows()[0]) == columns(CoverageRow)
    ledger.append(CoverageRow("here", "vit_a", "odd"))
    assert [row["error"] for row in ledger.rows()] == ["a, b", ""]


def test_summary_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "rows.csv", CoverageRow)
    good = {"captured": True, "oracle_error": 1e-8, "finite": True, "conservation_error": 1e-4}
    for changed in (
        {},
        {"oracle_error": 1.1e-8},
        {"oracle_error": float("nan")},
        {"conservation_error": 2e-4},
        {"conservation_error": float("nan")},
        {"finite": False},
        dict.fromkeys(good),
    ):
        ledger.append(CoverageRow("here", str(changed), "odd", **{**good, **changed}))
    summary = Summary.of(ledger.rows())
    assert summary == Summary(models=7, captured=6, exact=4, conserved=3)
    assert str(summary) == ("captured 6/7, gradient oracle <= 1e-08 4/7, finite and conservation <= 0.0001 3/7")


# The models


def test_families_are_the_smallest_of_each_module() -> None:
    families = {entry.family: entry.name for entry in timm_models.families()}
    assert len(families) == len(timm_models.timm.list_modules())
    assert families["resnet"] == "resnet10t"
    assert families["vgg"] == "vgg11"
    sizes = [timm_models.parameters(name) for name in families.values()]
    assert sizes == sorted(sizes)
    names = [entry.name for entry in zoo(everything=True) if entry.source == "timm"]
    assert len(names) == len(set(names)) >= 1300
    assert set(names[: len(families)]) == set(families.values())


def test_recorded_numbers_of_parameters_are_current() -> None:
    for name in ("test_vit", "vgg11", "vit_tiny_patch16_224"):
        assert timm_models.recorded_parameters()[name] == timm_models.count(name)


def test_models_are_chosen_by_source_and_name() -> None:
    entries = [Entry(source, name, name, refuses) for source in ("timm", "keras") for name in ("vit_a", "vgg")]
    assert [(e.source, e.name) for e in choose(entries, ["timm"], "v*t*")] == [("timm", "vit_a")]
    assert choose(entries) == entries


@pytest.mark.full
def test_the_command_resumes_and_measures_again_what_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.commands.coverage.zoo", lambda everything: [entry("good"), entry("other")])

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["coverage", "--results", str(tmp_path), *arguments])
        return result.exit_code, result.output

    code, output = run("--source", "here", "--models", "g*")
    assert code == 0, output
    assert "here: captured 1/1, gradient oracle <= 1e-08 1/1, finite and conservation <= 0.0001 1/1" in output
    (path,) = tmp_path.glob("coverage-cpu-float32-1threads-*.csv")
    first = path.read_bytes()
    assert run("--models", "g*")[0] == 0
    assert path.read_bytes() == first
    assert run("--models", "g*", "--redo", "good")[0] == 0
    again = path.read_bytes()
    assert again != first
    assert again.count(b"\n") == first.count(b"\n") == 2
    elsewhere = tmp_path / "elsewhere"
    assert run("--without", str(path), "--results", str(elsewhere))[0] == 0
    (rest,) = elsewhere.glob("coverage-cpu-float32-1threads-*.csv")
    assert names_in(rest) == {("here", "other")}
    code, output = run("--without", str(tmp_path / "none.csv"))
    assert code == 1
    assert output.startswith("benchmarks: there is no file of results")
    code, output = run("--models", "no_such_model")
    assert code == 1
    assert output == "benchmarks: no model of the zoo is called 'no_such_model'; there are models from here\n"
    code, output = run("--source", "nowhere")
    assert code == 1
    assert output.startswith("benchmarks: no model of the zoo from nowhere is called '*'; there are")
