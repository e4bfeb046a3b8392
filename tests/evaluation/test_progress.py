"""What a run says of itself: lines where there is no terminal, a log, the mean so far."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from relprop.evaluation.pipeline import progress
from relprop.evaluation.pipeline.progress import shown
from relprop.evaluation.pipeline.standing import Mean, Standing
from relprop.files import OutputError
from tests.helpers.evaluations import run


def test_a_mean_of_parts_is_that_of_all() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 101)
    values[[3, 50]] = np.nan
    mean = Mean()
    for part in np.split(values, [1, 2, 30, 30, 77]):
        mean.add(part)
    kept = values[~np.isnan(values)]
    assert mean.count == 99
    np.testing.assert_allclose(mean.value, kept.mean())
    np.testing.assert_allclose(mean.half_width, 1.96 * kept.std(ddof=1) / np.sqrt(99))


def test_a_mean_of_nothing_is_not_known() -> None:
    mean = Mean()
    mean.add([np.nan])
    assert np.isnan(mean.value)
    assert np.isnan(mean.half_width)
    standing = Standing({"random": mean})
    assert str(standing) == ""
    json.dumps(standing.as_dict(), allow_nan=False)


def test_without_a_terminal_there_are_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 10.0, 60.0, 60.0, 61.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    standing = Standing(failed=2)
    standing.gae["absLRP"].add([0.3, 0.5])
    with shown(True, standing) as told:
        told(10.0, 100)  # of an earlier run
        told(40.0, 100)
        told(41.0, 100)
    line = "relprop: 40 of 100 samples, 2 failed, 0.5 a second, 0:02:00 left; GAE absLRP 0.400 ±0.196\n"
    assert capsys.readouterr().err == line


def test_quiet_runs_say_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with shown(False, Standing()) as told:
        told(1.0, 2)
    with shown(lambda done, total: None, Standing()) as told:
        told(1.0, 2)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with shown(True, Standing()) as told:
        told(1.0, 2)
    assert "relprop: " not in capsys.readouterr().err


def test_a_log_ends_with_what_the_file_says(tmp_path: Path) -> None:
    path, log = tmp_path / "run.h5", tmp_path / "log.jsonl"
    run(path, "random", limit=8, log=log)
    run(path, "random", resume=True, log=log)
    first, last = [json.loads(line) for line in log.read_text().splitlines()]
    assert (first["done"], first["total"], last["done"], last["total"]) == (8, 8, 17, 17)
    from relprop import Results

    with Results(path) as results:
        scores = results.score("gae", "random")
    assert last["gae"]["random"]["count"] == (~np.isnan(scores)).sum()
    np.testing.assert_allclose(last["gae"]["random"]["mean"], np.nanmean(scores), rtol=1e-5)
    assert last["failed"] == 0


def test_a_log_that_can_not_be_written_is_an_error_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*log\.jsonl: No such file"):
        run(tmp_path / "run.h5", "random", log=tmp_path / "no" / "log.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, a file on a full disk")
def test_a_log_on_a_full_disk_is_told_and_the_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, full = tmp_path / "run.h5", Path("/dev/full")
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left"):
        run(path, "random", unit=1, log=full)
    with pytest.raises(ZeroDivisionError), shown(False, Standing(), full):  # what ended the run is what is said
        raise ZeroDivisionError
    assert path.exists()
    assert run(path, "random", unit=1, resume=True).complete
