"""A run is read while it is written: what is shown is right, or an error says to wait, and the run never minds."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import relprop
from relprop import engines
from relprop.evaluation import evaluate
from relprop.store import BusyError, State
from tests.helpers.evaluations import assert_same, contents, inputs
from tests.helpers.models import kept

SAMPLES = 208


class Paced:
    """A method that goes on as reads do: each of them allows one call."""

    def __init__(self, reads: Path) -> None:
        self.reads, self.calls = reads, 0
        self.config = {"method": "paced"}

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        deadline = time.monotonic() + 300
        while self.reads.stat().st_size < self.calls - 3:
            assert time.monotonic() < deadline, "nobody reads any more"
            time.sleep(0.001)
        return x * 2


def half(x: Tensor, target: Tensor) -> Tensor:
    if (x[:, 0, 0, 0] > 1.5).any():
        raise ValueError("too bright")
    return x / 2


def write(path: Path, reads: Path, processes: int, unit: int) -> None:
    methods, options = {"paced": Paced(reads), "half": half}, {"unit": unit, "relevance": "map", "progress": False}
    if processes:
        engines.evaluate(kept("plain"), inputs(SAMPLES), methods, path, processes=processes, **options)
    else:
        torch.set_num_threads(1)
        evaluate(kept("plain"), inputs(SAMPLES), methods, path, **options)


class Seen:
    """What one read shows of a run."""

    def __init__(self, path: Path, *, large: bool = True, summed: bool = False) -> None:
        with relprop.Results(path) as results:
            self.complete, self.evaluated, self.planned = results.complete, results.evaluated, results.planned
            samples = results.samples
            self.index, self.state = samples.index, samples.state
            self.tables = {"": {"state": samples.state, "members": samples.mosaic_members}}
            if large:
                self.tables[""]["output"] = results.output()
            for name in results.methods:
                one = results[name]
                self.tables[name] = {
                    "state": one.state(),
                    "message": one.messages(),
                    "gae": one.score("gae"),
                    "map_change": one.map_change(),
                }
                if large:
                    self.tables[name]["relevance"] = one.relevance()
            self.words = str(results.summary()).splitlines()[0] if summed else ""
            self.named = str(results).splitlines()[0]


def check(seen: Seen, final: Seen) -> None:
    """Compare what was shown with the file in the end."""
    rows = np.searchsorted(final.index, seen.index)
    np.testing.assert_array_equal(final.index[rows], seen.index)
    evaluated = np.ones(len(rows), bool)
    for name, table in seen.tables.items():
        shown = table["state"] != State.ABSENT
        assert (evaluated | ~shown).all() or name, "a method's row without that of its sample"
        for column, values in table.items():
            np.testing.assert_array_equal(values[shown], final.tables[name][column][rows][shown], f"{name} {column}")
        evaluated &= shown
    assert (seen.evaluated, seen.planned) == (evaluated.sum(), SAMPLES)
    state = f"{SAMPLES} samples, complete" if seen.complete else f"{seen.evaluated} of {SAMPLES} samples, not complete"
    assert seen.named.endswith(f": {state}")
    assert not seen.words or seen.words.endswith(f": {state}")


@pytest.mark.full
@pytest.mark.parametrize(("processes", "unit", "count"), [(0, 1, 150), (2, 6, 50)])
def test_every_read_is_right_or_an_error_says_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, unit: int, count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path, reads = tmp_path / "run.h5", tmp_path / "reads"
    reads.touch()
    apart = multiprocessing.get_context("spawn").Process  # what earlier tests left in this process is none of a run's
    kind = threading.Thread if processes else apart
    run = kind(target=write, args=(path, reads, processes, unit), daemon=True)  # type: ignore[operator]
    run.start()
    seen: list[Seen] = []
    waits: list[str] = []
    with reads.open("ab", buffering=0) as tickets:
        while len(seen) + len(waits) < count and (run.is_alive() or path.exists()):
            try:
                one = Seen(path, large=len(seen) % 10 == 9, summed=len(seen) % 40 == 5)
            except FileNotFoundError:
                assert not seen, "the run was there, and is gone"
                time.sleep(0.05)
                continue
            except BusyError as error:
                if not seen:
                    time.sleep(0.05)
                    continue
                waits.append(str(error))
            else:
                seen.append(one)
            tickets.write(b".")
        tickets.write(b"." * 10_000)
    run.join()
    assert len(seen) + len(waits) == count, waits
    assert all("wait" in words for words in waits)
    final = Seen(path)
    assert final.complete
    for one in seen:
        check(one, final)
    different = {one.evaluated for one in seen if not one.complete}
    assert len(different) >= 3, different  # how often a run commits depends on the machine
    assert len(waits) < count // 2, waits
    undisturbed = tmp_path / "undisturbed.h5"
    alone = apart(target=write, args=(undisturbed, reads, 0, unit))
    alone.start()
    alone.join()
    found, expected = contents(path), contents(undisturbed)
    for name in ("paced", "half"):
        assert found[f"methods/{name}/message"].tolist() == expected[f"methods/{name}/message"].tolist()
    assert_same(found, expected)
