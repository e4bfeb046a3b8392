"""Compiled programs: the same explanations, compiled once, and words where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, fx, nn

import relprop
import rule_registry
from relprop.run import compiled
from tests.helpers.models import distance, kept, make, pictures, sequences, settled

aten = torch.ops.aten


@cache
def model_of(kind: str) -> nn.Module:
    """A model in 64 bits, for all tests that leave it as it is."""
    return make(kind).double()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The graphs that were to be compiled; they run as they are, which takes no compiler and no minute."""
    graphs = []

    def run_as_it_is(graph: fx.GraphModule, **_: Any) -> fx.GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", run_as_it_is)
    return graphs


@pytest.fixture(autouse=True)
def silent() -> Any:
    """No warning is expected but where one is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "not compiled")
        yield


def assert_same(found: relprop.Explanation, expected: relprop.Explanation) -> None:
    for name, pairs in {
        "seeds": [(found.seeds[name], expected.seeds[name]) for name in expected.seeds],
        "relevance": [(found.relevances[name], expected.relevances[name]) for name in expected.relevances],
        "layers": [(found.layers[name], expected.layers[name]) for name in expected.layers],
        "output": [(found.output, expected.output)],
        "masses": [(found.conservation.masses, expected.conservation.masses)],
    }.items():
        for one, other in pairs:
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert not one.numel() or distance(one, other) < 1e-9, name
    if expected.target is None:
        assert found.target is None
    else:
        assert torch.equal(found.target, expected.target)
    cuts = zip(found.conservation.cuts, expected.conservation.cuts, strict=True)
    for cut, other in cuts:
        assert cut.operation == other.operation
        torch.testing.assert_close(cut.lost, other.lost, rtol=0, atol=1e-9)
        torch.testing.assert_close(cut.factor, other.factor, rtol=1e-6, atol=1e-9, equal_nan=True)


def inputs(kind: str, batch: int = 2) -> Tensor:
    return (sequences(batch) if kind.startswith(("heads", "encoder")) else pictures(batch)).double()


@pytest.mark.full
class TestCompiled:
    """One program through the real compiler, once for all of these tests."""

    @pytest.fixture(scope="class")
    @staticmethod
    def model() -> nn.Module:
        return make("plain").double()

    @pytest.fixture(scope="class")
    @staticmethod
    def explainer(model: nn.Module) -> relprop.Explainer:
        return relprop.Explainer(model, compile=True, layers=["features.0"], batch_size=2)

    @staticmethod
    def eager(model: nn.Module, x: Tensor, **options: Any) -> relprop.Explanation:
        return relprop.explain(model, x, layers=["features.0"], batch_size=2, **options)

    def test_returns_the_same(self, model: nn.Module, explainer: relprop.Explainer) -> None:
        before = {name: (id(p), p._version, p.clone()) for name, p in model.state_dict(keep_vars=True).items()}
        x = inputs("plain", 5)  # two chunks of two, and one that is left over
        assert_same(explainer(x), self.eager(model, x))
        assert_same(explainer(x, [1, 0, 3, 2, 4]), self.eager(model, x, target=[1, 0, 3, 2, 4]))
        for name, p in model.state_dict(keep_vars=True).items():
            assert (id(p), p._version) == before[name][:2]
            assert torch.equal(p, before[name][2])
        assert not any(module._forward_hooks for module in model.modules())

    def test_is_kept_for_the_next_call(
        self, model: nn.Module, explainer: relprop.Explainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        explainer(inputs("plain"))
        calls, compiling = [], torch.compile
        monkeypatch.setattr(
            torch, "compile", lambda *args, **options: calls.append(args) or compiling(*args, **options)
        )
        explainer(inputs("plain"), 3)
        relprop.explain(model, inputs("plain", 4), layers=["features.0"], batch_size=2, compile=True)
        torch.compiler.reset()  # what dynamo knows is gone, and the graph is compiled again
        explainer(inputs("plain"))
        assert calls == []

    @pytest.mark.parametrize("change", ["data", "in place", "other storage"])
    def test_changed_weights_take_effect(self, model: nn.Module, explainer: relprop.Explainer, change: str) -> None:
        x, weight = inputs("plain"), model.get_parameter("features.0.weight")
        before, kept_values = explainer(x).relevance, weight.detach().clone()
        with torch.no_grad():
            if change == "data":
                weight.data.mul_(-0.7)
            elif change == "in place":
                weight.mul_(-0.7)
            else:
                weight.data = -0.7 * weight.data
        try:
            assert distance(explainer(x).relevance, before) > 1e-2
            assert_same(explainer(x), self.eager(model, x))
        finally:
            weight.data = kept_values

    def test_two_threads(self, model: nn.Module, explainer: relprop.Explainer) -> None:
        x = inputs("plain")
        expected, found = self.eager(model, x), []
        threads = [threading.Thread(target=lambda: found.append(explainer(x))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in found:
            assert_same(one, expected)
        assert len(found) == 2


class TestTraced:
    """What is handed to the compiler, run as it is."""

    @pytest.mark.sweep(every=6)
    @pytest.mark.parametrize(
        ("kind", "rules"),
        [
            ("convolutional", "abslrp"),
            ("convolutional", "epsilon-plus"),
            ("transformer", "abslrp"),
            ("transformer", "gradient"),
            ("heads-batch-second", "alpha-beta"),
            ("plain", "epsilon-gamma-box"),  # it looks at values, but not while it is compiled
        ],
    )
    def test_computes_the_same(self, compilations: list[fx.GraphModule], kind: str, rules: str) -> None:
        model, x = model_of(kind), inputs(kind, 3)
        options: dict[str, Any] = {"rules": rules, "layers": ["head"]}
        assert_same(relprop.explain(model, x, compile=True, **options), relprop.explain(model, x, **options))
        (graph,) = compilations
        assert all(node.op in ("placeholder", "call_function", "output", "get_attr") for node in graph.graph.nodes)

    @pytest.mark.full
    def test_once_for_each_shape_and_layout(self, compilations: list[fx.GraphModule]) -> None:
        model, x = make("plain").double(), inputs("plain", 3)

        def compiled(x: Tensor, **options: Any) -> int:
            relprop.explain(model, x, compile=True, **options)
            return len(compilations)

        assert compiled(x) == 1
        assert compiled(x + 1, target=2) == 1
        assert compiled(x[:1].expand(3, -1, -1, -1), target=[1, 2, 3]) == 1
        assert compiled(x, contrast=None) == 2
        assert compiled(inputs("plain", 4)) == 3
        assert compiled(x.to(memory_format=torch.channels_last)) == 4
        model.to(memory_format=torch.channels_last)
        assert_same(relprop.explain(model, x, compile=True), relprop.explain(model, x))
        assert len(compilations) == 5

    def test_what_is_left_over_is_not_compiled(self, compilations: list[fx.GraphModule]) -> None:
        x = pictures(5)
        explainer = relprop.Explainer(make("plain"), batch_size=4, compile=True)
        explainer(x)
        assert [node.meta["val"].shape[0] for node in compilations[-1].graph.find_nodes(op="placeholder")][-1] == 4
        assert len(compilations) == 1
        explainer(x[:1])
        explainer(x[:4])
        assert len(compilations) == 1

    @pytest.mark.full
    def test_only_so_many_are_kept(self, compilations: list[fx.GraphModule], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiled, "SHAPES_KEPT", 2)
        explainer = relprop.Explainer(make("plain"), compile=True)
        for batch in (1, 2, 3, 3, 2, 1, 1):
            explainer(pictures(batch))
        assert len(compilations) == 4

    def test_a_callable_target(self, compilations: list[fx.GraphModule]) -> None:
        model, x = model_of("plain"), inputs("plain")

        def target(output: Tensor) -> Tensor:
            return output[:, 1] + output[:, 2].abs()

        assert_same(relprop.explain(model, x, target=target, compile=True), relprop.explain(model, x, target=target))


class TestFallback:
    """Where nothing can be compiled the explanation is right all the same, and one warning says why."""

    @staticmethod
    def assert_told_once(explainer: relprop.Explainer, x: Tensor, why: str) -> None:
        with pytest.warns(UserWarning, match=f"not compiled, and so explained as without compile=True: .*{why}"):
            found = explainer(x)
        again = explainer(x)  # an error if it warned
        assert_same(found, again)

    def test_hooks_are_called_every_time(self, compilations: list[fx.GraphModule]) -> None:
        seen: list[Tensor] = []

        def halve(info: relprop.NodeInfo, relevance: Tensor) -> Tensor:
            seen.append(relevance.clone())
            return relevance * 0.5

        model, x = model_of("plain"), inputs("plain")
        explainer = relprop.Explainer(model, hooks={"features.2": halve}, compile=True)
        self.assert_told_once(explainer, x, "hooks")
        assert len(seen) == 2
        assert not compilations
        assert_same(explainer(x), relprop.explain(model, x, hooks={"features.2": halve}))

    def test_a_rule_that_looks_at_values(self, compilations: list[fx.GraphModule]) -> None:
        def where_positive(call: rule_registry.Call, relevance: Tensor) -> Tensor:
            return relevance if bool((call.input > 0).any()) else 0 * relevance

        model, x = model_of("plain"), inputs("plain")
        rules = rule_registry.get("abslrp").derive({aten.relu.default: where_positive})
        self.assert_told_once(relprop.Explainer(model, rules=rules, compile=True), x, "[Dd]ata.?[Dd]ependent")
        assert not compilations

    def test_an_error_of_a_rule_is_that_error(self) -> None:
        def wrong(call: rule_registry.Call, relevance: Tensor) -> Tensor:
            return relevance[:, :1]

        rules = rule_registry.get("abslrp").derive({aten.relu.default: wrong})
        with pytest.raises(relprop.RelpropError, match="returned relevances of shapes"):
            relprop.explain(kept("plain"), pictures(2), rules=rules, compile=True)

    def test_memory_that_runs_out_is_no_missing_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("out of it")

        monkeypatch.setattr(torch, "compile", fail)
        with pytest.raises(relprop.OutOfMemoryError, match="try a batch size of 1"):
            relprop.explain(make("plain"), pictures(2), compile=True)

    @pytest.mark.full
    def test_no_compiler(self, tmp_path: Path) -> None:
        script = """
            import warnings, torch, relprop
            model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).eval()
            x = torch.randn(2, 3, 2, 2)
            expected = relprop.explain(model, x).relevance
            explainer = relprop.Explainer(model, compile=True)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                assert torch.equal(explainer(x).relevance, expected)
                assert torch.equal(explainer(x).relevance, expected)
            print(*(warning.message for warning in told if "not compiled" in str(warning.message)), sep=chr(10))
        """
        nothing = {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={**os.environ, **nothing},
            capture_output=True,
            text=True,
            check=True,
        )
        (told,) = run.stdout.splitlines()
        assert "no-compiler" in told or "C++ compiler" in told


def test_a_batch_size_must_be_known() -> None:
    with pytest.raises(ValueError, match='name it in place of "auto"'):
        relprop.Explainer(kept("plain"), batch_size="auto", compile=True)


@pytest.mark.full
@pytest.mark.parametrize(("name", "rules"), [("test_vit:depth=1", "abslrp"), ("test_efficientnet", "epsilon-plus")])
def test_small_architectures(name: str, rules: str) -> None:
    name, _, depth = name.partition(":depth=")  # a compiler takes as long for each block, and sees nothing new
    model = timm.create_model(name, **({"depth": int(depth)} if depth else {}))
    x = torch.randn(2, *model.default_cfg["input_size"], generator=torch.Generator().manual_seed(0)).double()
    model = settled(model.double(), x)
    layers = [next(path for path, module in model.named_modules() if isinstance(module, nn.Conv2d))]
    found = relprop.explain(model, x, rules=rules, layers=layers, compile=True)
    assert_same(found, relprop.explain(model, x, rules=rules, layers=layers))
