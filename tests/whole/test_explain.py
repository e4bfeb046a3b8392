"""Explaining: the model is untouched, every input is served or refused in words, programs stand alone."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import relprop
import rule_registry
from relprop import CaptureError, InputError, RelpropError, TargetError
from relprop.models import load_classifier, read_picture
from tests.helpers import models
from tests.helpers.models import CLASSES, Lambda, cosine, distance, gradient, kept, make, pictures, seeded
from tests.helpers.paths import SHARED

ASSETS = SHARED / "assets"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="shared/assets is not beside this checkout")


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything a call might leave behind in a model, tensors by identity and by value."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            held = list(value.items()) if isinstance(value, dict) else value
            state[f"{path}:{name}"] = (id(value), repr(held) if not isinstance(value, Tensor) else None)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state[name] = (id(tensor), tensor._version, tensor.requires_grad, tensor.data_ptr())
        state[f"{name}.grad"] = (id(tensor.grad), None if tensor.grad is None else tensor.grad.clone())
    return state


class TestUntouched:
    @pytest.mark.parametrize("kind", ["convolutional", "transformer", "encoder"])
    @pytest.mark.parametrize("rules", ["abslrp", "gradient"])
    def test_bit_for_bit(self, kind: str, rules: str) -> None:
        model, x = make(kind), models.KINDS[kind][1](2)
        model(x).sum().backward()
        values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        before, output, input_before = snapshot(model), model(x).detach().clone(), x.clone()
        relprop.explain(model, x, rules=rules, layers=["*"])
        after = snapshot(model)
        assert before.keys() == after.keys()
        for name, value in before.items():
            if name.endswith(".grad") and value[1] is not None:
                assert torch.equal(value[1], after[name][1]), name
            else:
                assert value == after[name], name
        assert all(torch.equal(values[name], tensor) for name, tensor in model.state_dict().items())
        assert torch.equal(model(x), output)
        assert torch.equal(x, input_before)

    def test_counters_in_the_forward_are_not_advanced(self) -> None:
        def forward(m: Any, x: Tensor) -> Tensor:
            m.calls += 1
            m.steps.add_(1)
            m.last = x
            return m.head(x)

        model = Lambda(forward, head=nn.Linear(8, 3), calls=0, last=None).eval()
        model.register_buffer("steps", torch.zeros(()))
        relprop.explain(model, torch.randn(2, 8))
        assert (model.calls, float(model.steps), model.last) == (0, 0.0, None)

    @pytest.mark.parametrize("held", [lambda t: t, lambda t: [t], lambda t: {"a": (t,)}], ids=["plain", "list", "dict"])
    def test_a_tensor_that_is_no_buffer_is_not_changed(self, held: Callable[[Tensor], Any]) -> None:
        steps = torch.zeros(3)

        def forward(m: Any, x: Tensor) -> Tensor:
            (leaf,) = pytree.tree_leaves(m.steps)
            return m.head(x) + leaf.add_(1)

        model = Lambda(forward, head=nn.Linear(8, 3), steps=held(steps)).eval()
        with pytest.raises(CaptureError, match=r"(?s)can't be made functional: .*mutated.*register_buffer"):
            relprop.explain(model, torch.randn(2, 8))
        assert not steps.any()

    def test_input_changed_in_place_by_the_model(self) -> None:
        model, x = Lambda(lambda m, x: m.head(x.mul_(2)), head=nn.Linear(8, 3)).eval(), torch.randn(2, 8)
        kept = x.clone()
        found = relprop.explain(model, x, rules="gradient", target=0).relevance
        assert torch.equal(x, kept)
        torch.testing.assert_close(found, 2 * model.head.weight[0].detach().expand(2, -1))

    def test_twice_the_same_bits(self) -> None:
        model, x = make("transformer"), pictures(3)
        a, b = relprop.explain(model, x), relprop.Explainer(model)(x)
        assert torch.equal(a.relevance, b.relevance)
        assert torch.equal(relprop.explain(copy.deepcopy(model), x).relevance, a.relevance)


class TestHooks:
    def test_observing_hook_never_sees_a_tracer_and_is_kept(self) -> None:
        model, seen = make("plain"), []
        handle = model.features[0].register_forward_hook(lambda module, args, output: seen.append(output))
        model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        bare = relprop.explain(make("plain"), pictures(2)).relevance
        assert torch.equal(relprop.explain(model, pictures(2)).relevance, bare)
        assert all(type(tensor) is Tensor for tensor in seen)
        assert len(seen) == 2  # once each, at capture
        relprop.explain(model, pictures(3))
        assert len(seen) == 2
        model(pictures(2))
        assert len(seen) == 4
        handle.remove()
        assert not model.features[0]._forward_hooks

    def test_observer_with_state_is_not_copied(self) -> None:
        class Recorder:
            def __init__(self) -> None:
                self.lock, self.shapes = threading.Lock(), []

            def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
                with self.lock:
                    self.shapes.append(output.shape)

        model, recorder = make("plain"), Recorder()
        model.head.register_forward_hook(recorder)
        relprop.explain(model, pictures(3))
        assert recorder.shapes == [(2, CLASSES)]

    def test_hook_that_changes_the_output_is_part_of_the_model(self) -> None:
        model, x = make("plain").double(), pictures(2).double()
        model.features[1].register_forward_hook(lambda module, args, output: output * output)
        e = relprop.explain(model, x, rules="gradient")
        torch.testing.assert_close(e.output, model(x).detach())
        assert distance(e.relevance, gradient(model, x)) <= 1e-9

    @pytest.mark.parametrize("scale", [1, 50], ids=["later", "at once"])
    def test_hook_that_writes_into_the_output_is_part_of_the_model(self, scale: int) -> None:
        """Also one that changes nothing on the inputs of the first call."""

        def saturate(module: nn.Module, args: Any, output: Tensor) -> None:
            output[:, :4].clamp_(max=20.0)

        model, x = make("plain").double(), pictures(2).double()
        model.features[0].register_forward_hook(saturate)
        explainer = relprop.Explainer(model, rules="gradient")
        explainer(scale * x)
        e = explainer(50 * x)
        torch.testing.assert_close(e.output, model(50 * x).detach())
        assert distance(e.relevance, gradient(model, 50 * x)) <= 1e-9

    def test_pre_hook_that_changes_the_input_is_part_of_the_model(self) -> None:
        model, x = make("plain").double(), pictures(2).double()
        model.head.register_forward_pre_hook(lambda module, args: (args[0].abs() * 2,))
        assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9

    def test_backward_hooks_do_not_fire(self) -> None:
        model, fired = make("plain"), []
        model.features[0].register_full_backward_hook(lambda *args: fired.append(args))
        relprop.explain(model, pictures(2), rules="gradient")
        assert not fired


class TestThreads:
    """Right up to rounding: while torch.export traces it switches oneDNN off for the whole process."""

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


class TestContexts:
    @pytest.mark.parametrize(
        "context",
        [
            torch.no_grad,
            torch.inference_mode,
            torch.enable_grad,
            lambda: torch.autocast("cpu", torch.bfloat16),
            lambda: torch.device("meta"),
        ],
        ids=["no_grad", "inference_mode", "enable_grad", "autocast", "default-device"],
    )
    @pytest.mark.parametrize("first", [True, False], ids=["capture-inside", "capture-before"])
    def test_around_the_call(self, context: Any, first: bool) -> None:
        model, x = make("convolutional"), pictures(2)
        expected = relprop.explain(copy.deepcopy(model), x).relevance
        if not first:
            relprop.explain(model, x)
        with context():
            found = relprop.explain(model, x)
        assert torch.equal(found.relevance, expected)
        assert not found.relevance.requires_grad
        assert not found.relevance.is_inference()

    def test_inputs_made_under_inference_mode(self) -> None:
        model = make("convolutional")
        with torch.inference_mode():
            x = pictures(2)
        assert x.is_inference()
        assert torch.equal(relprop.explain(model, x).relevance, relprop.explain(model, pictures(2)).relevance)

    def test_inputs_that_require_gradients_and_frozen_parameters(self) -> None:
        model, x = make("convolutional"), pictures(2)
        expected = relprop.explain(model, x).relevance
        x.requires_grad_()
        assert torch.equal(relprop.explain(model, x).relevance, expected)
        assert x.grad is None
        model.requires_grad_(False)
        assert torch.equal(relprop.explain(model, x).relevance, expected)

    def test_model_built_under_inference_mode(self) -> None:
        with torch.inference_mode():
            model = make("plain")
        with pytest.raises(CaptureError, match="inference tensor"):
            relprop.explain(model, pictures(2))


class TestPrecision:
    @pytest.mark.parametrize("kind", ["convolutional", "transformer"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_models(self, kind: str, dtype: torch.dtype) -> None:
        model, x = make(kind), pictures(4)
        target = model(x).argmax(1)
        expected = relprop.explain(model, x, target=target, contrast=None)
        half = relprop.explain(copy.deepcopy(model).to(dtype), x.to(dtype), target=target, contrast=None)
        assert half.relevance.dtype == torch.float32
        assert half.relevance.isfinite().all()
        assert cosine(half.relevance, expected.relevance) >= 0.95
        assert half.conservation.error <= 1e-4

    @needs_assets
    @pytest.mark.slow
    def test_real_vit_in_bfloat16_and_under_noise(self) -> None:
        model, x = _vit()
        explainer, single = relprop.Explainer(model), relprop.Explainer(model, contrast=None)
        expected = explainer(x)
        target = expected.target
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-4 * x.std()
        assert cosine(explainer(x + noise, target).relevance, expected.relevance) >= 0.99
        rounded, coarse = copy.deepcopy(model).bfloat16().float(), x.bfloat16().float()
        found = relprop.explain(rounded, coarse, target=target, contrast=None)
        assert cosine(found.relevance, single(x, target).relevance) >= 0.99
        # The contrast subtracts two maps that are nearly parallel: single pictures go down to 0.95.
        found = relprop.explain(rounded, coarse, target=target)
        assert cosine(found.relevance, expected.relevance) >= 0.98
        each = F.cosine_similarity(found.relevance.flatten(1), expected.relevance.flatten(1))
        assert float(each.median()) >= 0.98
        assert float(each.min()) >= 0.9


def _vit() -> tuple[nn.Module, Tensor]:
    classifier = load_classifier("vit_tiny_patch16_224", ASSETS / "weights" / "vit_tiny_patch16_224_in1k.safetensors")
    files = sorted((ASSETS / "images" / "imagenet1k_one_per_class").glob("*.jpg"))[::125]
    return classifier.model, torch.stack([classifier.transform(read_picture(file)) for file in files])


class TestBatches:
    @pytest.mark.parametrize("kind", ["convolutional", "transformer", "windows", "heads-batch-second"])
    @pytest.mark.parametrize("size", [1, 2])
    def test_chunks_change_nothing(self, kind: str, size: int) -> None:
        model, x = make(kind), models.KINDS[kind][1](3)
        whole = relprop.explain(model, x, layers=["head"])
        parts = relprop.explain(model, x, layers=["head"], batch_size=size)
        assert distance(parts.relevance, whole.relevance) <= 1e-5
        assert distance(parts.layers["head"], whole.layers["head"]) <= 1e-5
        assert torch.equal(parts.target, whole.target)
        assert parts.conservation.masses.shape == whole.conservation.masses.shape

    def test_chunks_in_double_precision(self) -> None:
        model, x = make("transformer").double(), pictures(3).double()
        whole, parts = relprop.explain(model, x), relprop.explain(model, x, batch_size=1)
        assert distance(parts.relevance, whole.relevance) <= 1e-12

    def test_samples_do_not_see_each_other(self) -> None:
        model, x = make("windows").double(), pictures(3).double()
        whole = relprop.explain(model, x).relevance
        for k in range(3):
            assert distance(relprop.explain(model, x[k : k + 1]).relevance, whole[k : k + 1]) <= 1e-9


class TestTargets:
    def test_int_list_tensor_and_callable_agree(self) -> None:
        model, x = kept("plain"), pictures(3)
        explainer = relprop.Explainer(model, contrast=None)
        expected = explainer(x, 2)
        assert torch.equal(expected.target, torch.tensor([2, 2, 2]))
        for target in ([2, 2, 2], (2, 2, 2), torch.tensor(2), torch.tensor([2, 2, 2]), torch.tensor([2] * 3).byte()):
            assert torch.equal(explainer(x, target).relevance, expected.relevance)
        assert torch.equal(explainer(x, np.int64(2)).relevance, expected.relevance)
        found = explainer(x, lambda output: output[:, 2])
        torch.testing.assert_close(found.relevance, expected.relevance)

    def test_one_per_sample(self) -> None:
        model, x = kept("plain"), pictures(3)
        found = relprop.explain(model, x, target=[4, 0, 2])
        for k, target in enumerate((4, 0, 2)):
            assert (
                distance(found.relevance[k], relprop.explain(model, x[k : k + 1], target=target).relevance[0]) <= 1e-5
            )

    def test_default_is_the_largest_output(self) -> None:
        model, x = kept("plain"), pictures(3)
        assert torch.equal(relprop.explain(model, x).target, model(x).argmax(1))

    @pytest.mark.parametrize("kind", ["plain", "convolutional", "transformer"])
    def test_masses_with_and_without_contrast(self, kind: str) -> None:
        model, x = kept(kind), pictures(3)
        single = relprop.explain(model, x, contrast=None)
        assert single.conservation.lost == 0
        assert float(single.relevance.min()) >= 0
        torch.testing.assert_close(single.relevance.sum((1, 2, 3)), torch.ones(3))
        contrastive = relprop.explain(model, x)
        assert float(contrastive.relevance.sum((1, 2, 3)).abs().max()) <= 1e-5
        assert torch.equal(contrastive.relevance, relprop.explain(model, x, contrast="rest").relevance)
        seeds = contrastive.seeds["x"]
        torch.testing.assert_close(seeds[0], single.relevance)
        torch.testing.assert_close(seeds[0] - seeds[1], contrastive.relevance)

    def test_rest_is_the_mean_over_the_other_classes(self) -> None:
        model, x = (
            nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES, bias=False)).eval().double(),
            pictures(1, 4).double(),
        )
        found = relprop.explain(model, x, target=1, rules="gradient", contrast="rest").relevance
        weight = model[1].weight.detach()
        others = weight[[0, 2, 3, 4]].mean(0)
        torch.testing.assert_close(found.flatten(), weight[1] - others)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (CLASSES, r"target 5 is out of range: the model has classes 0 to 4"),
            (-1, r"target -1 is out of range"),
            ([0, 1, 7], r"target 7 is out of range"),
            (1.5, r"whole numbers, not torch\.float32"),
            (torch.tensor([1.0, 2.0, 3.0]), r"whole numbers"),
            ([0, 1], r"shape \(2,\); give one class, or one for each of 3 samples"),
            (torch.zeros(3, CLASSES, dtype=torch.long), r"shape \(3, 5\)"),
            (True, r"class index, not a truth value"),
            (lambda output: output, r"one number per sample, \(B,\), not \(B, 5\)"),
            (lambda output: output.sum(), r"one number per sample"),
            ("cat", r"target"),
        ],
        ids=["large", "negative", "one-large", "float", "floats", "short", "matrix", "bool", "whole", "scalar", "str"],
    )
    def test_refused(self, target: Any, message: str) -> None:
        with pytest.raises((TargetError, CaptureError), match=message):
            relprop.explain(kept("plain"), pictures(3), target=target)

    @pytest.mark.parametrize("rules", ["abslrp", "gradient", "epsilon"])
    def test_contrast_with_another_class(self, rules: str) -> None:
        """Why this class and not that one: the difference of both maps, in one pass."""
        model, x = make("plain").double(), pictures(3).double()
        found = relprop.explain(model, x, target=[1, 0, 4], contrast=3, rules=rules)
        ours = relprop.explain(model, x, target=[1, 0, 4], contrast=None, rules=rules).relevance
        theirs = relprop.explain(model, x, target=3, contrast=None, rules=rules).relevance
        torch.testing.assert_close(found.relevance, ours - theirs)
        assert found.contrast == 3
        if rules == "gradient":
            source = x.clone().requires_grad_()
            output = model(source)
            difference = output[range(3), [1, 0, 4]] - output[:, 3]
            torch.testing.assert_close(found.relevance, torch.autograd.grad(difference.sum(), source)[0])

    @pytest.mark.parametrize(
        ("target", "contrast", "message"),
        [
            ([0, 3, 3], 3, r"target itself of 2 of 3 samples, which are 1, 2"),
            (1, CLASSES, r"contrast 5 is out of range: the model has classes 0 to 4"),
            (1, -1, r"contrast -1 is out of range"),
            (lambda output: output[:, 0], 2, r"contrast=2 needs classes"),
        ],
    )
    def test_contrast_refused(self, target: Any, contrast: int, message: str) -> None:
        with pytest.raises(TargetError, match=message):
            relprop.explain(kept("plain"), pictures(3), target=target, contrast=contrast)

    def test_contrast_with_the_predicted_class(self) -> None:
        model, x = kept("plain"), pictures(3)
        with pytest.raises(TargetError, match="target itself of"):
            relprop.explain(model, x, contrast=int(model(x).argmax(1)[0]))
        with pytest.raises(ValueError, match="a class index or one class index per sample, not True"):
            relprop.Explainer(model, contrast=True)

    def test_contrast_with_one_class(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()
        for contrast in ("default", "rest", None):
            e = relprop.explain(model, pictures(2), contrast=contrast)  # there are no others
            assert e.contrast is None
            assert e.relevance.shape == (2, 3, 8, 8)
        with pytest.raises(TargetError, match="contrast 1 is out of range"):
            relprop.explain(model, pictures(2), contrast=1)

    def test_contrast_with_a_callable(self) -> None:
        with pytest.raises(TargetError, match=r"needs classes.*contrast=None"):
            relprop.explain(make("plain"), pictures(2), target=lambda o: o[:, 0], contrast="rest")

    def test_output_that_is_no_row_of_classes(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
        with pytest.raises(TargetError, match=r"output is \(B, 4, 6, 6\), not \(B, classes\)"):
            relprop.explain(model, pictures(2))

    def test_unknown_contrast(self) -> None:
        with pytest.raises(ValueError, match='contrast must be "rest"'):
            relprop.Explainer(make("plain"), contrast="others")  # type: ignore[arg-type]


def _with(value: float) -> Tensor:
    x = pictures(2)
    x[1, 0, 0, 0] = value
    return x


class TestBadInputs:
    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            (_with(float("nan")), InputError, r"has 1 of 384 values that are NaN or infinite"),
            (_with(float("inf")), InputError, r"NaN or infinite"),
            (
                torch.randn(2, 4, 8, 8),
                InputError,
                r"Plain .*fails on an input of \(B, 4, 8, 8\) torch\.float32.*channels",
            ),
            (
                torch.randn(3, 8, 8),
                InputError,
                r"an input of \(B, 8, 8\) .* the first axis being the batch: .*channels",
            ),
            (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), InputError, r"uint8.*x\.float\(\) / 255"),
            (torch.zeros(2, 3, 8, 8, dtype=torch.long), InputError, r"torch\.int64.*weights are torch\.float32"),
            (torch.zeros(0, 3, 8, 8), InputError, r"is empty: shape \(0, 3, 8, 8\)"),
            (pictures(2).double(), InputError, r"torch\.float64.*its weights are torch\.float32"),
            (np.zeros((2, 3, 8, 8), np.float32), InputError, r"is a ndarray; the model takes tensors"),
            ([], InputError, r"at least one tensor"),
            (torch.tensor(1.0), InputError, r"batch axis"),
        ],
        ids=["nan", "inf", "channels", "no-batch", "uint8", "int64", "empty", "dtype", "numpy", "nothing", "scalar"],
    )
    def test_refused_in_words(self, x: Any, error: Any, message: str) -> None:
        with pytest.raises(error, match=message):
            relprop.explain(kept("plain"), x)

    def test_missing_second_input(self) -> None:
        model = Lambda(lambda m, x, y: m.head(x + y), head=nn.Linear(8, 3)).eval()
        with pytest.raises(
            InputError, match=r"fails on an input of \(B, 8\).*missing 1 required positional argument: 'y'"
        ):
            relprop.explain(model, torch.randn(2, 8))

    def test_model_that_returns_a_tuple(self) -> None:
        model = Lambda(lambda m, x: (m.head(x), x), head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match=r"returns a tuple.*output=.*0 \(2, 3\), 1 \(2, 8\)"):
            relprop.explain(model, torch.randn(2, 8))

    def test_unknown_names(self) -> None:
        model, x = kept("plain"), pictures(2)
        with pytest.raises(CaptureError, match="no module 'nowhere' leaves an operation"):
            relprop.explain(model, x, layers=["nowhere"])
        with pytest.raises(CaptureError, match="no module 'nowhere' leaves an operation"):
            relprop.explain(model, x, at="nowhere")
        with pytest.raises(LookupError, match="no rule set named 'nowhere'; there are: abslrp"):
            relprop.explain(model, x, rules="nowhere")

    def test_target_that_does_not_depend_on_the_source(self) -> None:
        model = Lambda(lambda m, x: m.head(torch.ones_like(x)), head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match="does not depend on the source"):
            relprop.explain(model, torch.randn(2, 8))

    def test_every_error_is_one_of_ours(self) -> None:
        for error in (InputError, TargetError, CaptureError, relprop.MissingRuleError, relprop.RuleError):
            assert issubclass(error, RelpropError)


LOAD = """
import sys, torch
loaded = torch.export.load(sys.argv[1]).module()
kept = torch.load(sys.argv[2])
for x, relevance in kept:
    found = loaded(x)["relevance"][0]
    error = float((found - relevance).abs().max() / relevance.abs().max())
    assert error <= 1e-5, error
assert "relprop" not in sys.modules
print("same maps")
"""


class TestProgram:
    def test_is_a_readable_graph_module(self) -> None:
        program = relprop.Explainer(kept("transformer")).program(pictures(2))
        assert isinstance(program, fx.GraphModule)
        text = program.print_readable(print_output=False)
        for name in ("relevance_blocks_0_mlp_1", "relevance_blocks_1_qkv", "relevance_patches", "relevance_x"):
            assert name in text, name

    def test_runs_alone_and_holds_no_tape(self) -> None:
        model, x = kept("convolutional"), pictures(2)
        explainer = relprop.Explainer(model)
        with torch.no_grad():
            result = explainer.program(x)(x)
        assert not result["relevance"][0].requires_grad
        seeds = explainer(x).seeds["x"]
        torch.testing.assert_close(result["relevance"][0], seeds)
        taped = explainer.program(x)(x)
        assert all(value.grad_fn is None for value in (taped["output"], *taped["relevance"]))

    @pytest.mark.parametrize("kind", ["plain", "convolutional", "transformer", "windows", "heads"])
    def test_exports_and_reloads_in_a_fresh_process(self, kind: str, tmp_path: Path) -> None:
        model, inputs = kept(kind), models.KINDS[kind][1]
        explainer = relprop.Explainer(model)
        program = explainer.program(inputs(2))
        with torch.no_grad():
            exported = torch.export.export(
                program, (inputs(3),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
            )
        torch.export.save(exported, tmp_path / "program.pt2")
        maps = [(inputs(n, seed=n), explainer(inputs(n, seed=n)).seeds["x"]) for n in (1, 4)]  # type: ignore[call-arg]
        torch.save(maps, tmp_path / "maps.pt")
        command = [sys.executable, "-c", LOAD, str(tmp_path / "program.pt2"), str(tmp_path / "maps.pt")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        assert "same maps" in done.stdout

    @pytest.mark.parametrize("move", [lambda p: p.to("meta"), lambda p: p.half(), lambda p: p.double()])
    def test_refuses_to_move_the_models_parameters(self, move: Any) -> None:
        model = make("plain")
        program = relprop.Explainer(model).program(pictures(2))
        with pytest.raises(RelpropError, match="shares its parameters with the model"):
            move(program)
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_shares_the_models_parameters(self) -> None:
        model = make("plain")
        program = relprop.Explainer(model).program(pictures(2))
        ours = {id(p) for p in model.parameters()}
        assert {id(p) for p in program.parameters()} == ours


def test_explaining_a_model_leaves_it_collectable() -> None:
    model = seeded(models.Plain)
    relprop.explain(model, pictures(2))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_nothing_of_the_callers_context_changes() -> None:
    model = make("plain")
    with torch.autocast("cpu", torch.bfloat16):
        relprop.explain(model, pictures(2))
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    state = torch.get_rng_state()
    relprop.explain(make("plain"), pictures(2))
    assert torch.equal(torch.get_rng_state(), state)
