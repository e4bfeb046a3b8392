"""The model and the caller's context are left as they are, whatever hooks the model has."""

from __future__ import annotations

import copy
import gc
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import relprop
from relprop import CaptureError
from tests.helpers import models
from tests.helpers.models import CLASSES, Lambda, distance, gradient, make, pictures, seeded


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
    @pytest.mark.sweep(every=12)
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

    @pytest.mark.sweep(every=3)
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

    @pytest.mark.full
    def test_twice_the_same_bits(self) -> None:
        model, x = make("transformer"), pictures(3)
        a, b = relprop.explain(model, x), relprop.Explainer(model)(x)
        assert torch.equal(a.relevance, b.relevance)
        assert torch.equal(relprop.explain(copy.deepcopy(model), x).relevance, a.relevance)


class TestHooks:
    @pytest.mark.full
    def test_observing_hook_never_sees_a_tracer_and_is_kept(self) -> None:
        model, seen, kinds = make("plain"), [], queue.SimpleQueue()  # which can't be copied
        handle = model.features[0].register_forward_hook(lambda module, args, output: kinds.put(type(output)))
        model.features[0].register_forward_hook(lambda module, args, output: seen.append(output))
        model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        bare = relprop.explain(make("plain"), pictures(2)).relevance
        assert torch.equal(relprop.explain(model, pictures(2)).relevance, bare)
        assert not seen  # copies of the list were written to
        assert not kinds.empty()
        assert all(kinds.get() is Tensor for _ in range(kinds.qsize()))
        relprop.explain(model, pictures(3))
        assert kinds.empty()
        model(pictures(2))
        assert (len(seen), kinds.qsize()) == (2, 1)
        handle.remove()
        assert len(model.features[0]._forward_hooks) == 1

    def test_observer_with_a_lock(self) -> None:
        class Recorder:
            def __init__(self) -> None:
                self.lock, self.shapes, self.calls = threading.Lock(), [], queue.SimpleQueue()

            def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
                with self.lock:
                    self.shapes.append(output.shape)
                    self.calls.put(output.shape)

        model, recorder = make("plain"), Recorder()
        model.head.register_forward_hook(recorder)
        relprop.explain(model, pictures(3))
        assert recorder.shapes == []
        assert {recorder.calls.get() for _ in range(recorder.calls.qsize())} == {(2, CLASSES)}

    @pytest.mark.full
    def test_observer_of_numbers(self) -> None:
        """A tracer has none of them."""
        model, means = make("plain"), []
        model.head.register_forward_hook(lambda module, args, output: means.append(output.mean().item()))
        bare = relprop.explain(make("plain"), pictures(2)).relevance
        assert torch.equal(relprop.explain(model, pictures(2)).relevance, bare)
        assert not means

    def test_hook_that_changes_the_output_is_part_of_the_model(self) -> None:
        model, x = make("plain").double(), pictures(2).double()
        model.features[1].register_forward_hook(lambda module, args, output: output * output)
        e = relprop.explain(model, x, rules="gradient")
        torch.testing.assert_close(e.output, model(x).detach())
        assert distance(e.relevance, gradient(model, x)) <= 1e-9

    @pytest.mark.sweep(every=2)
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


class TestContexts:
    @pytest.mark.sweep(every=16)
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

    @pytest.mark.full
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
