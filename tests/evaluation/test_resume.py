"""Runs that go on: which file is resumed, which is refused, and what is done again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

import relprop
from relprop.errors import InputError
from relprop.evaluation import (
    evaluate,
)
from relprop.files import OutputError
from relprop.store import BusyError, ConfigurationError, EvaluationWriter, FormatError, is_complete
from tests.helpers.evaluations import SAMPLES, assert_same, contents, inputs, run
from tests.helpers.models import make


def test_resuming_a_finished_run_does_nothing(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    run(path)
    before = path.read_bytes()
    found = run(path, resume=True)
    assert (found.evaluated, found.complete, found.samples) == (0, True, SAMPLES)
    assert path.read_bytes() == before


@pytest.mark.sweep(every=7)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"unit": 3}, "unit"),
        ({"batch_size": 8}, "batch_size"),
        ({"baseline": 0.5}, "baseline"),
        ({"target": "label"}, "target"),
        ({"count": 16}, "data"),
        ({"shard": (0, 2)}, "shard"),
    ],
)
def test_another_configuration_is_refused_by_name(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    run(tmp_path / "run.h5", ["constant"])
    before = contents(tmp_path / "run.h5")
    with pytest.raises(ConfigurationError, match=named):
        run(tmp_path / "run.h5", ["constant"], resume=True, **options)
    assert_same(contents(tmp_path / "run.h5"), before)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8)
    with pytest.raises(ConfigurationError, match="model"):
        evaluate(make("plain", seed=1), inputs(8), ["constant"], tmp_path / "run.h5", resume=True)


def test_a_method_of_the_same_name_with_other_options_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", {"mine": "abslrp"}, count=8)
    with pytest.raises(ConfigurationError, match="delta"):
        run(tmp_path / "run.h5", {"mine": "abslrp:delta=0.5"}, count=8, resume=True)


def test_a_file_is_neither_overwritten_nor_resumed_unasked(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8)
    with pytest.raises(OutputError, match="exists"):
        run(tmp_path / "run.h5", ["constant"], count=8)
    assert run(tmp_path / "run.h5", ["random"], count=8, overwrite=True).methods.keys() == {"random"}
    with pytest.raises(InputError, match="pass resume=True or overwrite=True, not both"):
        run(tmp_path / "run.h5", ["random"], count=8, overwrite=True, resume=True)


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_after_a_commit_and_the_run_goes_on(whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run.h5"
    calls = 0

    def kill(x: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # in the middle of a unit
            os.kill(os.getpid(), number)
        return x

    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(path, {"mine": kill, "random": "random"})
    assert signal.getsignal(number) == handler
    with h5py.File(path) as file:
        assert not is_complete(file)
        assert file["methods/mine/state"][:].sum() == 8
        assert file["methods/random/state"][:].sum() == 0
    found = run(path, {"mine": kill, "random": "random"}, resume=True)
    assert found.complete
    assert contents(path)["methods/random/gae"].tobytes() == contents(whole)["methods/random/gae"].tobytes()


def test_failed_samples_are_done_again_when_asked(tmp_path: Path) -> None:
    class Mine:
        config = {"mine": 1}  # noqa: RUF012
        works = False

        def __call__(self, x: Tensor, target: Tensor) -> Tensor:
            return x if self.works else x * torch.nan

    mine = Mine()
    assert run(tmp_path / "run.h5", {"mine": mine}, count=8).methods["mine"].failed == 8
    mine.works = True
    assert run(tmp_path / "run.h5", {"mine": mine}, count=8, resume=True).methods["mine"].failed == 8
    found = run(tmp_path / "run.h5", {"mine": mine}, count=8, resume=True, retry=True)
    assert (found.methods["mine"].failed, found.methods["mine"].done, found.complete) == (0, 8, True)


def test_a_file_open_in_another_writer_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["constant"], count=8)
    with h5py.File(tmp_path / "run.h5") as file:
        config = relprop.store.read_config(file)
        layout = relprop.store.read_layout(file)
    with EvaluationWriter.resume(tmp_path / "run.h5", config, layout), pytest.raises(BusyError):
        run(tmp_path / "run.h5", ["random"], count=8, resume=True)


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", b"\x89HDF\r\n\x1a\n cut short"])
def test_a_truncated_or_foreign_file_is_not_resumed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.h5").write_bytes(content)
    with pytest.raises(FormatError):
        run(tmp_path / "run.h5", ["constant"], count=8, resume=True)
    assert (tmp_path / "run.h5").read_bytes().startswith(content)
