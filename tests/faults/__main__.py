"""The full counts: ``python -m tests.faults flip truncate eio short full kill --count 1000 --record FILE``.

Each trial is a line of FILE; what is there is not done again, so a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from relprop.files.lines import LineFile
from tests.faults import jobs
from tests.faults.damage import COMPRESSIONS, damaged, outcome, prepare, read_all
from tests.faults.evaluation_jobs import evaluation
from tests.faults.explanation_jobs import save_h5
from tests.faults.export_jobs import EXPORTS
from tests.faults.library import build, trials, writes_of
from tests.faults.test_failing_writes import everything

DAMAGE, WRITES = ("flip", "truncate"), ("eio", "short", "full", "kill")
WRITERS = (jobs.run, jobs.stream, jobs.add_method, jobs.join, evaluation, save_h5, *EXPORTS)
JOBS = {job.__name__: job for job in WRITERS}
AT_ONCE = 20


class Record:
    """What became of trials, a line each."""

    def __init__(self, path: Path) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        self.ended = {(one["kind"], one["of"], one["number"]): one["ended"] for one in map(json.loads, lines)}
        self._file = LineFile(path)

    def open(self, kind: str, of: str, count: int) -> list[int]:
        """Return the numbers of trials that were not done yet."""
        return [number for number in range(1, count + 1) if (kind, of, number) not in self.ended]

    def add(self, kind: str, of: str, number: int, ended: str) -> None:
        """Write down a trial."""
        self.ended[kind, of, number] = ended
        self._file.add({"kind": kind, "of": of, "number": number, "ended": ended})

    def counts(self) -> dict[tuple[str, str], Counter[str]]:
        """Return how often each end was met, by kind and what it was tried on."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for (kind, of, _), ended in self.ended.items():
            counts.setdefault((kind, of), Counter())[ended] += 1
        return dict(sorted(counts.items()))

    def write_counts(self, path: Path) -> None:
        """Write the counts as a table."""
        with path.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["kind", "of", "ended", "trials"])
            table.writerows([*of, *end] for of, found in self.counts().items() for end in sorted(found.items()))

    def __str__(self) -> str:
        return "\n".join(f"{kind} of {of}: {dict(found)}" for (kind, of), found in self.counts().items())


def damage(record: Record, kind: str, count: int, folder: Path) -> None:
    """Read damaged files of each compression."""
    for compression in COMPRESSIONS:
        source = prepare(folder / "sound", compression)
        wanted = read_all(source)
        for number in record.open(kind, compression, count):
            damaged(source, folder / "run.h5", kind, number)
            record.add(kind, compression, number, outcome(folder / "run.h5", wanted))


def fail_writes(record: Record, kind: str, count: int, folder: Path, library: Path) -> None:
    """Let each job's writes fail in turn, from the first on, and see whether the next run comes to the same bits."""
    for name, job in JOBS.items():
        where = f"{job.__module__}:{name}"
        writes = writes_of(library, where, folder)
        wanted = everything(folder / f"{name}-count-0")
        numbers = record.open(kind, name, min(count, writes))
        for start in range(0, len(numbers), AT_ONCE):
            for number, ended in trials(library, where, folder, kind, numbers[start : start + AT_ONCE]).items():
                record.add(kind, name, number, _verdict(job, folder / f"{name}-{kind}-{number}", ended, wanted))


def _verdict(job: Any, place: Path, ended: str, wanted: dict[str, Any]) -> str:
    """Go on where a run was told of the failure, or killed, and compare what is there then."""
    if ended == "signal 9" or ended == "told":
        try:
            job(place)
        except Exception as error:
            return f"{ended}, then {type(error).__name__}"
    elif ended != "done":
        return ended
    found = everything(place)
    if left := found.keys() - wanted:
        return f"{ended}, left {len(left)} files"
    return f"{ended}, {'right' if found == wanted else 'silent'}"


def main() -> None:
    """Do the trials that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=(*DAMAGE, *WRITES))
    parser.add_argument("--count", type=int, default=1000, help="of each kind, compression and job")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="a CSV that gets the counts of all that is recorded")
    given = parser.parse_args()
    record = Record(given.record)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        jobs.prepare(folder)
        for kind in given.kinds:
            if kind in DAMAGE:
                damage(record, kind, given.count, folder)
            else:
                fail_writes(record, kind, given.count, folder, build(folder))
    print(record)
    if given.table is not None:
        record.write_counts(given.table)
    good = ("right", "told", "done, right", "told, right", "signal 9, right")
    sys.exit(any(ended not in good for ended in record.ended.values()))


if __name__ == "__main__":
    main()
