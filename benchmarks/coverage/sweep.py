"""A sweep over the zoo: one row a model, written as soon as it is known; a rerun goes on where the last one ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks import peers
from benchmarks.coverage.measure import PEERS, CoverageRow
from benchmarks.quality.coco import DataError
from benchmarks.records.ledger import Ledger
from benchmarks.records.tables import markdown_table
from benchmarks.workers import Worker, WorkerError, side_by_side
from benchmarks.zoo.entries import Entry

ORACLE_LIMIT = 1e-8
CONSERVATION_LIMIT = 1e-4


def sweep(entries: Sequence[Entry], ledger: Ledger, workers: Sequence[Worker[Entry, CoverageRow]]) -> None:
    """Measure all models that have no row yet; what ends a process is a row as well."""
    done = {_key(row) for row in ledger.rows()}
    todo = [entry for entry in entries if (entry.source, entry.name) not in done]
    with tqdm(initial=len(entries) - len(todo), total=len(entries), unit="model", disable=None) as bar:
        for entry, found in side_by_side(workers, todo):
            if isinstance(found, WorkerError):
                found = CoverageRow(entry.source, entry.name, entry.family, error=str(found))
            ledger.append(found)
            bar.update()


def sweep_peers(entries: Sequence[Entry], ledger: Ledger, workers: Sequence[Worker[Entry, dict[str, str]]]) -> None:
    """Ask other libraries about all models that have a row without their verdicts."""
    open_ = {_key(row) for row in ledger.rows() if not row[PEERS[0]]}
    todo = [entry for entry in entries if (entry.source, entry.name) in open_]
    with tqdm(total=len(todo), unit="model", desc="peers", disable=None) as bar:
        for entry, found in side_by_side(workers, todo):
            if isinstance(found, WorkerError):
                found = dict.fromkeys(PEERS, f"error: {found}")
            ledger.fill({"source": entry.source, "name": entry.name}, found)
            bar.update()


def names_in(path: Path) -> set[tuple[str, str]]:
    """Return the source and the name of each model that a file of results has a row of.

    Raises
    ------
    DataError
        If there is no such file.
    """
    if not path.exists():
        raise DataError(f"there is no file of results {path}")
    return {_key(row) for row in Ledger(path, CoverageRow).rows()}


def _key(row: dict[str, str]) -> tuple[str, str]:
    return row["source"], row["name"]


@dataclass(frozen=True)
class Summary:
    """How many models of how many pass."""

    models: int
    captured: int
    exact: int
    conserved: int

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, str]]) -> Summary:
        """Count rows as a ledger returns them."""
        return cls(
            models=len(rows),
            captured=sum(row["captured"] == "True" for row in rows),
            exact=sum(_at_most(row["oracle_error"], ORACLE_LIMIT) for row in rows),
            conserved=sum(
                row["finite"] == "True" and _at_most(row["conservation_error"], CONSERVATION_LIMIT) for row in rows
            ),
        )

    def __str__(self) -> str:
        return (
            f"captured {self.captured}/{self.models}, gradient oracle <= {ORACLE_LIMIT:g} {self.exact}/{self.models}, "
            f"finite and conservation <= {CONSERVATION_LIMIT:g} {self.conserved}/{self.models}"
        )


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table of sources: how many models there are, how many of them pass, and how many each peer explains."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    groups = {source: [row for row in rows if row["source"] == source] for source in sources}
    if len(groups) > 1:
        groups["all"] = list(rows)
    limits = [f"agree with autograd to {ORACLE_LIMIT:g}", f"conserve to {CONSERVATION_LIMIT:g}"]
    lines = [["source", "models", "captured", *limits, *(peer.name for peer in peers.PEERS)]]
    for source, group in groups.items():
        found = Summary.of(group)
        counts = map(str, (found.models, found.captured, found.exact, found.conserved))
        lines.append([source, *counts, *(_explained(group, peer) for peer in PEERS)])
    return markdown_table(lines, numbers=len(lines[0]) - 1)


def _explained(rows: Sequence[Mapping[str, str]], peer: str) -> str:
    """Say how many models a peer explains, of those that it was tried on."""
    verdicts = [row[peer] for row in rows if row[peer]]
    return f"{sum(verdict.startswith('ok') for verdict in verdicts)} of {len(verdicts)}" if verdicts else ""


def _at_most(cell: str, limit: float) -> bool:
    return bool(cell) and float(cell) <= limit
