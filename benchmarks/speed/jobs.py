"""The jobs that are measured for a model: passes, explanations, and those of other libraries.

A job is made from a model and its pictures, ``(B, C, H, W)``, and may then be run again and again. To measure one more,
add it to `JOBS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import relprop
from benchmarks.conditions import Conditions, ConditionsError, Device
from benchmarks.peers import INPUT_X_GRADIENT, PEERS, measure_peers
from benchmarks.zoo.entries import Subject
from relprop.assign.rule_names import choose_rules

Job = Callable[[], object]
Maker = Callable[[nn.Module, Tensor], Job]
"""Makes a job; one that can be sent to another process."""

FORWARD, GRADIENT, EXPLAIN = "forward", "gradient", "explain"
PLAIN = "explain, contrast=None"
WRONG = " (wrong)"
"""Behind the name of a library whose relevance is not what it promises."""


def forward(model: nn.Module, x: Tensor) -> Job:
    """Predict."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(x)  # type: ignore[no-any-return]

    return run


def gradient(model: nn.Module, x: Tensor) -> Job:
    """Take the plain input gradient of the predicted class."""
    target = predict(model, x)[:, None]

    def run() -> Tensor:
        source = x.clone().requires_grad_()
        return torch.autograd.grad(model(source).gather(1, target).sum(), source)[0]

    return run


def explanation(model: nn.Module, x: Tensor, **options: Any) -> Job:
    """Explain, with options of `relprop.explain`."""
    return partial(relprop.explain, model, x, **options)


def ruled_explanation(rules: str, model: nn.Module, x: Tensor) -> Job:
    """Explain under another rule set than the default, with the contrast that it has by itself."""
    return explanation(model, x, rules=choose_rules(rules))


def replayed(model: nn.Module, x: Tensor) -> Job:
    """Explain by replaying the relevance program as a CUDA graph: without Python, launches or checks."""
    program, target = relprop.Explainer(model).program(x), predict(model, x)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):  # what is prepared at the first calls must not be in the graph
            program(x, target)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        program(x, target)
    return graph.replay


def peer(name: str, model: nn.Module, x: Tensor) -> Job:
    """Explain one seed by another library, with a model prepared beforehand."""
    (chosen,) = (listed for listed in (INPUT_X_GRADIENT, *PEERS) if listed.name == name)
    return partial(chosen.method(model), x, predict(model, x))


def predict(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the most likely classes, ``(B,)``."""
    with torch.no_grad():
        target: Tensor = model(x).argmax(1)
    return target


JOBS: Mapping[str, Maker] = {
    FORWARD: forward,
    GRADIENT: gradient,
    EXPLAIN: explanation,
    PLAIN: partial(explanation, contrast=None),
}

COMPILED: Mapping[str, Maker] = {
    f"{EXPLAIN}, compiled": partial(explanation, compile=True),
    f"{PLAIN}, compiled": partial(explanation, contrast=None, compile=True),
}
AS_IT_IS: Mapping[str, str] = dict(zip(COMPILED, (EXPLAIN, PLAIN), strict=True))
"""Which job each of the compiled ones is, as it is: their products are the same."""


def rule_jobs(names: Sequence[str]) -> Mapping[str, Maker]:
    """Return explanations under other rule sets, ``NAME`` or ``NAME:PARAM=VALUE,...``.

    Raises
    ------
    MissingRuleError, ParameterError
        There is no such rule set, or it has no such parameter.
    """
    for name in names:
        choose_rules(name)  # a typo is an error before anything is measured
    return {f"explain, {name}": partial(ruled_explanation, name) for name in names}


def graph_jobs(conditions: Conditions) -> Mapping[str, Maker]:
    """Return what only a GPU can do.

    Raises
    ------
    ConditionsError
        The models run elsewhere.
    """
    if conditions.device is not Device.CUDA:
        raise ConditionsError("--cuda-graph is about GPUs: it goes with --device cuda")
    return {"explain, CUDA graph": replayed}


def peer_jobs(model: nn.Module, x: Tensor) -> Mapping[str, Maker]:
    """Return what other libraries do with a model.

    One that can't explain it is left out; one whose relevance is not what it promises is called wrong.

    Raises
    ------
    MissingExtraError
        If one is not installed.
    """
    verdicts = {INPUT_X_GRADIENT.name: "ok", **measure_peers(Subject(model, x[:2]))}
    return {
        name if verdict.startswith("ok") else name + WRONG: partial(peer, name)
        for name, verdict in verdicts.items()
        if not verdict.startswith("error")
    }
