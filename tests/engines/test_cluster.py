"""Runs on a cluster of Ray, of two nodes that the tests start: the same bits, whatever becomes of nodes and drivers."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from relprop import engines
from relprop.engines.cluster import sender
from relprop.engines.shards import ShardFolder
from relprop.evaluation import Evaluation, PictureFolder, evaluate
from relprop.store import is_complete, open_evaluation
from tests.engines.test_processes import Fatal, doubled
from tests.helpers.evaluations import assert_same, contents, inputs, run
from tests.helpers.models import kept
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.full

SAMPLES = 24
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes; this process is connected, so that one test's workers serve the next."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        patch.setenv("RAY_worker_niceness", "0")  # by itself Ray gives way to all else on the machine
        port = free_port()
        found = Cluster(initialize_head=True, head_node_args=NODE | {"ray_client_server_port": port})
        found.clients = f"ray://127.0.0.1:{port}"
        try:
            found.other = found.add_node(**NODE)
            patch.setenv("RAY_ADDRESS", found.address)
            ray.init(found.address, log_to_driver=False)
            yield found
        finally:
            ray.shutdown()
            found.shutdown()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def spread(path: Path, methods: Any, engine: str = "ray", **options: Any) -> Evaluation:
    return engines.evaluate(kept("plain"), inputs(SAMPLES), methods, path, engine=engine, unit=1, **options)


class Slow:
    """A method that takes its time, and notes each call of it."""

    config = {"method": "slow"}  # noqa: RUF012

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with self.notes.open("a") as file:
            file.write("call\n")
        time.sleep(0.1)
        return x * 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; the methods of the tests compute the same."""
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    run(path, {"doubled": doubled}, SAMPLES, unit=1)
    return path


def nothing_is_left(name: str) -> bool:
    return not list(Path(tempfile.gettempdir()).glob(f"relprop-{name}*"))


@pytest.mark.usefixtures("cluster")
def test_a_task_that_fails_twice_is_done_again_and_bits_are_those_of_one_process(tmp_path: Path, whole: Path) -> None:
    told: list[tuple[float, int | None]] = []
    found = spread(
        tmp_path / "run.h5",
        {"doubled": Fatal(tmp_path, 2, signal.SIGKILL)},
        progress=lambda done, total: told.append((done, total)),
    )
    assert len(list(tmp_path.glob("died*"))) == 2
    assert (found.samples, found.evaluated, found.complete) == (SAMPLES, SAMPLES, True)
    assert told[-1] == (SAMPLES, SAMPLES)
    assert_same(contents(tmp_path / "run.h5"), contents(whole))
    assert not (tmp_path / "run.h5.shards").exists()
    with open_evaluation(tmp_path / "run.h5") as file:
        assert f'"threads": "{torch.get_num_threads()}"' in file.attrs["versions"]


@pytest.mark.usefixtures("cluster")
def test_tasks_stop_at_the_sample_at_which_one_process_stops(tmp_path: Path) -> None:
    path, whole = tmp_path / "run.h5", tmp_path / "whole.h5"
    options: dict[str, Any] = {"unit": 6, "stop_when": "gae ±1"}
    evaluate(kept("plain"), inputs(140), "random,centre", whole, progress=False, **options)
    found = engines.evaluate(kept("plain"), inputs(140), "random,centre", path, engine="ray", processes=2, **options)
    assert (found.samples, found.complete) == (100, True)
    assert_same(contents(path), contents(whole))


def as_input(picture: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).movedim(-1, 0).float() / 255 - 0.5


@pytest.mark.usefixtures("cluster")
def test_nodes_that_see_neither_pictures_nor_home_are_sent_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the driver can read the folder of pictures, and tasks take the folder of shards for another one."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(16):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number:02}.png")
    (folder / "03.png").write_bytes(b"nothing")  # another picture fills up
    options: dict[str, Any] = {"transform": as_input, "unit": 1}
    evaluate(kept("plain"), folder, "random,constant", tmp_path / "whole.h5", **options)
    path = tmp_path / "run.h5"
    evaluate(kept("plain"), folder, "random", path, **options, limit=8)  # whose shards are sent, too
    pictures, read = PictureFolder(folder), sender.read_contents
    here = pictures.listing.paths
    pictures.listing = replace(pictures.listing, paths=[Path("/seen/by/nobody", name) for name in pictures.names])
    monkeypatch.setattr(sender, "read_contents", lambda paths, wanted: read(here, wanted))
    monkeypatch.setattr(ShardFolder, "name", lambda folder: "elsewhere")
    engines.evaluate(kept("plain"), pictures, "random,constant", path, engine="ray", resume=True, **options)
    found, expected = contents(path), contents(tmp_path / "whole.h5")
    told, meant = (b"\n".join(values.pop("samples/message")).decode() for values in (found, expected))
    assert told.replace("/seen/by/nobody", str(folder)) == meant  # a picture is called what it is at home
    assert_same(found, expected)
    assert nothing_is_left("elsewhere")


DRIVER = """
import sys
from pathlib import Path
from tests.engines.test_cluster import Slow, spread

path = Path(sys.argv[1])
spread(path, {"doubled": Slow(path.with_name("notes"))}, progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.usefixtures("cluster")
def test_a_driver_that_was_killed_is_started_again_and_nothing_finished_is_done_twice(
    tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "run.h5"
    shards = ShardFolder(path)
    arguments = [sys.executable, "-c", DRIVER, str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT) as driver:
        while not shards.files() and driver.poll() is None:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL
    name = shards.name()
    finished = [file for file in shards.files() if whole_shard(file)]
    assert 0 < len(finished) < SAMPLES // 4
    found = spread(path, {"doubled": Slow(tmp_path / "later")}, resume=True)
    assert found.evaluated <= SAMPLES - 4 * len(finished)
    calls = len((tmp_path / "later").read_text().splitlines())
    assert_same(contents(path), contents(whole))
    assert nothing_is_left(name)
    assert calls > 0


CLIENT = """
import sys
from pathlib import Path
from tests.engines.test_cluster import spread
from tests.engines.test_processes import doubled

found = spread(Path(sys.argv[1]), {"doubled": doubled}, sys.argv[2], progress=lambda done, total: print(done, end=" "))
print("evaluated", found.evaluated)
"""


def test_a_driver_outside_of_the_cluster_is_killed_and_goes_on(cluster: Any, tmp_path: Path, whole: Path) -> None:
    """It is a client of the cluster's server, by ``ray://HOST:PORT``."""
    pytest.importorskip("grpc", reason="Ray's clients need grpcio")
    path, said = tmp_path / "run.h5", tmp_path / "said.txt"
    arguments = [sys.executable, "-c", CLIENT, str(path), cluster.clients]
    with (
        said.open("w") as errors,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT) as driver,
    ):
        while not ShardFolder(path).files() and driver.poll() is None:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    skip_where_ray_has_no_client(said.read_text())
    assert driver.returncode == -signal.SIGKILL
    finished = [file for file in ShardFolder(path).files() if whole_shard(file)]
    arguments[2] = CLIENT.replace("progress=", "resume=True, progress=")
    ended = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    skip_where_ray_has_no_client(ended.stderr)
    assert ended.returncode == 0, ended.stderr
    told = ended.stdout.split()
    assert told[-3:-1] == [str(SAMPLES), "evaluated"]
    assert 0 < int(told[-1]) <= SAMPLES - 4 * len(finished)
    assert_same(contents(path), contents(whole))


def skip_where_ray_has_no_client(said: str) -> None:
    if "Initialization failure from server" in said:
        pytest.skip("Ray can't serve a client here: gRPC crashed when Ray's server forked, which it does not always")


def whole_shard(path: Path) -> bool:
    with open_evaluation(path) as file:
        return is_complete(file)


def test_a_node_that_dies_takes_no_shard_with_it(cluster: Any, tmp_path: Path, whole: Path) -> None:
    """The last test: the cluster has one node afterwards."""
    killed: list[float] = []

    def kill(done: float, total: int | None) -> None:
        if done and not killed:
            killed.append(done)
            cluster.remove_node(cluster.other, allow_graceful=False)

    found = spread(tmp_path / "run.h5", {"doubled": Slow(tmp_path / "notes")}, progress=kill)
    assert killed
    assert killed[0] < SAMPLES
    assert found.complete
    assert_same(contents(tmp_path / "run.h5"), contents(whole))
