"""A run that is killed again and again loses nothing: what it leaves is whole, and goes on to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from relprop.store import is_complete, open_evaluation
from tests.helpers.evaluations import assert_same, contents, run
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork and no SIGKILL")

METHODS = ("captum.Saliency", "random", "constant")  # which need no capture: runs start soon

# One process imports PyTorch once, computes nothing, and every run is a fork of it: autograd may not run before.
FORKS = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import torch
import captum.attr
import relprop.evaluation
from relprop.store import State, is_complete, open_evaluation, validate
from tests.helpers.evaluations import run

torch.set_num_threads(1)
path, kills, options = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
chance = random.Random(0)

def fork():
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            run(path, resume=True, progress=lambda done, total: os.write(tell, b"."), **options)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(tell)
    return pid, told

def look():
    # What a kill left: a whole file, which says how far it is and never that it is complete.
    if not path.exists():
        return 0
    with open_evaluation(path) as file:
        validate(file)
        states = [group["state"][:] for group in (file["samples"], *file["methods"].values())]
        absent = sum(int((state == State.ABSENT).sum()) for state in states)
        assert not (absent and is_complete(file))
        return sum(len(state) for state in states) - absent

for _ in range(kills):
    pid, told = fork()
    for _ in range(chance.randint(1, 4)):  # parts that were handed to the writer; at the end of a run there are none
        os.read(told, 1)
    time.sleep(0.05 * chance.random())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(told)
    print(look(), flush=True)
_, status = os.waitpid(fork()[0], 0)
assert status == 0
print(look(), flush=True)
"""


@pytest.mark.parametrize(("kills", "samples"), [(3, 24), pytest.param(10, 40, marks=pytest.mark.full)])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_killed_again_and_again_equals_the_unbroken_one(
    tmp_path: Path, kills: int, samples: int, streamed: bool
) -> None:
    path = tmp_path / "killed.h5"
    options = {"methods": METHODS, "count": samples, "unit": 1, "relevance": "map", "metrics": ["deletion"]}
    options["streamed"] = streamed
    arguments = [sys.executable, "-c", FORKS, str(path), str(kills), json.dumps(options)]
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=900, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    done = [int(line) for line in found.stdout.split()]
    assert len(done) == kills + 1
    assert done == sorted(done)  # what was committed stays
    different = {count for count in done if 0 < count < done[-1]}
    assert len(different) > kills // 3, "the kills met too few different moments"
    run(tmp_path / "whole.h5", **options)
    with open_evaluation(path) as file:
        assert is_complete(file)
    assert_same(contents(path), contents(tmp_path / "whole.h5"))
