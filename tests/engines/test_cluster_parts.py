"""What the engine of clusters decides without a cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from relprop import engines
from relprop.engines.cluster.pictures import NotSent, SentPicture, laid_out, may_be_sent, read_contents
from relprop.engines.cluster.room import place_of_tasks, room_for
from relprop.engines.machine import Place
from relprop.engines.pending import Pending
from relprop.engines.worker import Shard
from relprop.errors import InputError
from relprop.evaluation import PictureFolder
from relprop.extras import MissingExtraError


def node(cores: float, gpus: float = 0, alive: bool = True) -> dict[str, object]:
    return {"Alive": alive, "Resources": {"CPU": cores} | ({"GPU": gpus} if gpus else {})}


@pytest.fixture(autouse=True)
def _threads_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_without_ray_the_extra_is_named_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'needs ray: pip install "relprop\[ray\]"'):
        engines.evaluate("no-such-model", tmp_path / "none", "random", tmp_path / "run.h5", engine="ray")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no engine spark"):
        engines.evaluate("no-such-model", tmp_path, "random", tmp_path / "run.h5", engine="spark")


@pytest.mark.parametrize(
    ("nodes", "processes", "device", "place", "room"),
    [
        ([node(16), node(8)], "auto", None, Place(4), 6),
        ([node(4), node(4), node(64, alive=False)], "auto", None, Place(1), 8),
        ([node(8), node(8)], 3, None, Place(4), 3),
        ([node(1), node(1)], 5, "cpu", Place(1, "cpu"), 5),
        ([node(16, 4), node(8)], "auto", None, Place(4, "cuda"), 4),
        ([node(16, 4), node(8)], "auto", "cpu", Place(4, "cpu"), 6),
        ([node(2, 4)], "gpus", None, Place(1, "cuda"), 2),
    ],
)
def test_all_tasks_have_as_many_threads_and_as_many_are_sent_as_there_is_room(
    nodes: list[dict[str, object]], processes: int | str, device: str | None, place: Place, room: int
) -> None:
    assert place_of_tasks(nodes, processes, device) == place
    assert room_for(nodes, place, processes) == room


def test_the_environment_says_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert place_of_tasks([node(16)], "auto") == Place(3)
    assert place_of_tasks([node(16, 2)], "auto") == Place(3, "cuda")
    with pytest.raises(engines.EngineError, match="no node with a GPU has 3 cores"):
        place_of_tasks([node(16), node(2, 2)], "auto")


def test_a_cluster_without_what_is_needed_is_refused() -> None:
    with pytest.raises(engines.EngineError, match="has no GPU: pass the number"):
        place_of_tasks([node(4)], "gpus")
    with pytest.raises(engines.EngineError, match="has no GPU for device cuda"):
        place_of_tasks([node(4)], 2, "cuda")
    with pytest.raises(engines.EngineError, match="has no core for tasks"):
        place_of_tasks([node(0), node(8, alive=False)], "auto")


def test_a_shard_is_begun_three_times_and_then_its_error_ends_the_run() -> None:
    shard = Shard(0, 1, Path("shard.h5"))
    pending = Pending([shard])
    for _ in range(5):  # something was lacking, which is no failure
        pending.put_off(pending.take())
    for _ in range(2):
        pending.put_back(pending.take(), OSError("first"))
    with pytest.raises(OSError, match="no room"):
        pending.put_back(pending.take(), OSError("no room"))
    assert not pending
    pending = Pending([shard])
    for _ in range(2):
        pending.put_back(pending.take())
    with pytest.raises(engines.EngineError, match="ended 3 times on shard 0 of 1"):
        pending.put_back(pending.take())


def test_a_picture_is_read_at_home_or_from_its_copy_or_asked_for(tmp_path: Path) -> None:
    home, copies = tmp_path / "home", tmp_path / "copies"
    for folder in (home, copies):
        folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (home / name).write_bytes(name.encode())
    folder = PictureFolder(home)
    sent = may_be_sent(folder.listing)
    first, second, third = sent.paths
    assert os.fspath(first) == str(home / "a.png")
    (home / "c.png").unlink()
    contents = read_contents(folder.listing.paths, [1, 2])
    (home / "b.png").unlink()
    with pytest.raises(NotSent):
        os.fspath(second)
    with laid_out([contents], copies):
        assert Path(second).read_bytes() == b"b.png"
        assert str(second) == str(home / "b.png")
        assert os.fspath(third) == str(home / "c.png"), "it could not be read at home: here it fails in the same words"
    assert isinstance(second, SentPicture)
    with pytest.raises(NotSent):
        os.fspath(second)
