"""Threads that explain one model share its programs, and what they compile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import relprop
from relprop.run import compiled, prepared
from tests.helpers.models import CLASSES, pictures, seeded
from tests.helpers.models import Plain as Network


def test_threads_keep_one_program_for_each_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """More choices than are kept, from many threads at once: nothing is lost on the way, nothing grows."""
    monkeypatch.setattr(prepared, "PROGRAMS_KEPT", 2)
    model, x = seeded(Network), pictures(2)
    expected = {c: relprop.explain(model, x, target=c, contrast=None).relevance for c in range(2)}
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for k in range(6):
            contrast = (number + k) % CLASSES
            target = (contrast + 1) % CLASSES
            relprop.explain(model, x, target=target, contrast=contrast)
            if target in expected:
                found = relprop.explain(model, x, target=target, contrast=None).relevance
                assert torch.equal(found, expected[target])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(relprop.capture(model, (x,)).made) <= 2


def test_two_threads_get_the_same_program() -> None:
    model, x = seeded(Network), pictures(2)
    relprop.capture(model, (x,))
    start = threading.Barrier(2)
    found = []

    def work(_: int) -> None:
        start.wait()
        found.append(relprop.Explainer(model).program(x))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert found[0] is found[1]


def test_the_flag_of_compilation_is_as_before_whatever_threads_do() -> None:
    """It is one for all threads: two that restored what they had found could leave it set."""
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with compiled._values_unknown():
            inside.set()
            leave.wait(10)

    def second() -> None:
        with compiled._values_unknown():
            pass

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert not torch.compiler.is_compiling()
