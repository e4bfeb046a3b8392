"""Threads that explain and predict at once do not see each other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from tests.helpers.models import Lambda, distance, make, pictures


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
        made: list[Any] = []

        def guarded() -> None:
            try:
                made.append(run())
            except Exception as error:
                made.append(error)

        def forward(m: Any, x: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                thread = threading.Thread(target=guarded)
                thread.start()
                thread.join()
            return m.head(x)

        relprop.explain(Lambda(forward, head=nn.Linear(8, 3)).eval(), torch.randn(2, 8))
        return made[0]

    @pytest.mark.parametrize("rules", ["gradient", "input-times-gradient", "guided-backprop"])
    def test_rules_that_differentiate(self, rules: str) -> None:
        program = relprop.Explainer(make("transformer"), rules=rules).program(pictures(2))
        found = self.meanwhile(lambda: program(pictures(2))["relevance"][0])
        torch.testing.assert_close(found, program(pictures(2))["relevance"][0], rtol=1e-4, atol=1e-5)

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
