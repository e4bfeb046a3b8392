"""Threads that explain and predict at once do not see each other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop.assign.contrasts import choose_contrast
from tests.helpers.models import Lambda, distance, gradient, make, pictures, seeded


class TestThreads:
    """Right up to rounding: while torch.export traces it switches oneDNN off for the whole process."""

    @pytest.mark.sweep(every=6)
    @pytest.mark.parametrize("kind", ["plain", "transformer"])
    @pytest.mark.parametrize("seed", range(3))
    def test_two_explain_while_a_third_predicts(self, kind: str, seed: int) -> None:
        model, x = make(kind, seed), pictures(3)  # a new model: the very first capture is in the race
        with torch.no_grad():
            output = model(x)
        relevance = relprop.explain(copy.deepcopy(model), x).relevance
        worst = {"output": [0.0], "relevance": [0.0]}
        errors: list[Exception] = []
        start, done = threading.Barrier(3), threading.Event()

        def explain() -> None:
            for _ in range(3):
                worst["relevance"].append(distance(relprop.explain(model, x).relevance, relevance))

        def predict() -> None:
            while not done.is_set():
                with torch.no_grad():
                    worst["output"].append(distance(model(x), output))

        def guarded(run: Callable[[], None]) -> None:
            try:
                start.wait()
                run()
            except Exception as error:
                errors.append(error)

        explaining = [threading.Thread(target=guarded, args=(explain,)) for _ in range(2)]
        predicting = threading.Thread(target=guarded, args=(predict,))
        for thread in (*explaining, predicting):
            thread.start()
        for thread in explaining:
            thread.join()
        done.set()
        predicting.join()
        assert errors == []
        assert max(worst["output"]) <= 1e-5
        assert max(worst["relevance"]) <= 1e-4


class TestWhileAnotherThreadCaptures:
    """Torch's flags for that are up for all threads of a process."""

    @staticmethod
    def meanwhile(run: Callable[[], Any]) -> Any:
        """What a function returns or raises in a thread of its own, while a model is being exported."""
        made: SimpleQueue[Any] = SimpleQueue()  # which can't be copied, as a list would be with the forward

        def guarded() -> None:
            try:
                made.put(run())
            except Exception as error:
                made.put(error)

        def forward(m: Any, x: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                thread = threading.Thread(target=guarded)
                thread.start()
                thread.join()
            return m.head(x)

        relprop.explain(Lambda(forward, head=nn.Linear(8, 3)).eval(), torch.randn(2, 8))
        return made.get(timeout=1)

    @pytest.mark.sweep(every=3)
    @pytest.mark.parametrize("rules", ["gradient", "input-times-gradient", "guided-backprop"])
    def test_rules_that_differentiate(self, rules: str) -> None:
        program = relprop.Explainer(make("transformer"), rules=rules).program(pictures(2))
        found = self.meanwhile(lambda: program(pictures(2))["relevance"][0])
        torch.testing.assert_close(found, program(pictures(2))["relevance"][0], rtol=1e-4, atol=1e-5)

    @pytest.mark.sweep(every=2)
    @pytest.mark.parametrize("hook", [lambda info, r: r / 0, lambda info, r: r.zero_()[:0].sum().item() or None])
    def test_what_a_hook_does_is_looked_at(self, hook: Any) -> None:
        program = relprop.Explainer(make("plain"), hooks={"features.2": hook}).program(pictures(2))
        assert isinstance(self.meanwhile(lambda: program(pictures(2))), relprop.HookError)

    def test_a_warning_is_given(self) -> None:
        rules = rule_registry.get("z-box", low=10.0, high=11.0)
        program = relprop.Explainer(make("plain"), rules=rules).program(pictures(2))

        def warned() -> Any:
            with pytest.warns(UserWarning, match="outside of the bounds"):
                return program(pictures(2))

        assert isinstance(self.meanwhile(warned), dict)


def _contrasts(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Rewrites a graph that was captured before, again and again."""
    return [relprop.explain(model, x, target=0, contrast=k).relevance for k in range(1, 4)]


def _combinations(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Captures one model with several targets, which are folded into its last layer."""
    return [relprop.explain(model, x, target=lambda o, k=k: o[:, 0] - o[:, k]).relevance for k in (1, 2)]


def _layers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Rewrites for other rules, and starts at other places."""
    made = [
        relprop.explain(model, x, rules=rules, target=0)
        for rules in ("epsilon-plus", "gradient", "input-times-gradient")
    ]
    return [e.relevance for e in made]


SPELLINGS = {"combined targets": _combinations, "contrasts": _contrasts, "rule sets": _layers}


@pytest.mark.full
@pytest.mark.parametrize("trial", range(2))
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_captures_while_another_rewrites(spelling: str, trial: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps the state of a tracer for the whole process: one that rewrites waits in its midst for the other."""

    def build() -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), trial)

    rewriting, x = build(), torch.randn(2, 8)
    expected = SPELLINGS[spelling](build(), x)
    relprop.explain(rewriting, x, target=0)
    rewrites, traces, done = SimpleQueue[bool](), SimpleQueue[bool](), SimpleQueue[bool]()
    found: list[Any] = []

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.body(x)
        if torch.compiler.is_exporting():
            traces.put(True)
            with suppress(Empty):
                done.get(timeout=2)
        return m.head(y.relu().reshape(y.shape[0] * 1, -1))

    def paused(*args: Any) -> Any:  # what an explainer calls between its capture and the rest
        if threading.current_thread() is thread:
            rewrites.put(True)
            with suppress(Empty):
                traces.get(timeout=0.3)
        return choose_contrast(*args)

    def rewrite() -> None:
        try:
            found.extend(SPELLINGS[spelling](rewriting, x))
        except Exception as error:
            found.append(error)
        done.put(True)

    monkeypatch.setattr("relprop.explainer.choose_contrast", paused)
    model = Lambda(forward, body=nn.Linear(8, 8), head=nn.Linear(8, 3)).eval().double()
    y = torch.randn(2, 8, dtype=torch.float64)
    thread = threading.Thread(target=rewrite)
    thread.start()
    rewrites.get(timeout=60)
    try:
        relevance = relprop.explain(model, y, rules="gradient").relevance
    finally:
        thread.join()
    assert distance(relevance, gradient(model, y)) <= 1e-9
    assert len(found) == len(expected), found
    assert max(distance(a, b) for a, b in zip(found, expected, strict=True)) <= 1e-4
