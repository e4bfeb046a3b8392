"""Features that hooks keep and the forward reads later are part of the model, wherever they are kept."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import CaptureError
from tests.helpers import storing
from tests.helpers.models import CLASSES, Lambda, distance, gradient, seeded


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    storing.FEATURES.clear()
    storing.LAST = None
    yield
    storing.FEATURES.clear()
    storing.LAST = None


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def contents(value: Any, depth: int = 5) -> Any:
    """What an object holds, down to tensors and modules, told by their identity."""
    if isinstance(value, dict) and depth:
        return {key: contents(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | deque) and depth:
        return [contents(item, depth - 1) for item in value]
    if isinstance(value, storing.Saver | storing.CallableSaver) and depth:
        return id(value), contents(vars(value), depth - 1)
    return id(value)


def state(model: nn.Module) -> Any:
    own = [{path: contents(vars(module)) for path, module in model.named_modules()}]
    kept = getattr(type(model), "kept", None)
    cells = [
        contents(cell.cell_contents)
        for module in model.modules()
        for hook in module._forward_hooks.values()
        for cell in getattr(hook, "__closure__", None) or ()
        if not isinstance(cell.cell_contents, nn.Module)
    ]
    return own, cells, contents(kept), contents(storing.FEATURES), contents(storing.LAST)


def check(model: nn.Module, x: Tensor) -> None:
    before = state(model)
    found = relprop.explain(model, x, rules="gradient")
    e = relprop.explain(model, x)
    assert state(model) == before
    torch.testing.assert_close(found.output, model(x).detach())
    assert distance(found.relevance, gradient(model, x)) <= 1e-9
    assert e.conservation.error <= 1e-9


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("kind", storing.KINDS)
def test_wherever_it_is_kept(kind: str, x: Tensor) -> None:
    model = seeded(storing.KINDS[kind]).double()
    if kind in ("closure_over_a_dict", "global_dict", "hook_object"):  # of a call of the user's, with its tape
        model(x[:2])
    check(model, x)


@pytest.mark.full
@pytest.mark.parametrize("kind", storing.KINDS)
def test_after_a_call(kind: str, x: Tensor) -> None:
    model = seeded(storing.KINDS[kind]).double()
    model(x[:2])
    check(model, x[:2])


def test_check_calls_no_hook_of_the_users(x: Tensor) -> None:
    model = seeded(storing.hook_object).double()
    report = relprop.check(model, x)
    assert report.ok, str(report)
    assert not hasattr(model.saver, "stored")


def test_a_method_put_in_place_of_the_forward(x: Tensor) -> None:
    """A closure that refers to the model: that of a copy must refer to the copy."""
    model = seeded(lambda: Lambda(lambda m, x: m.head(x), head=nn.Linear(8, CLASSES), calls=[])).double()
    plain, calls = model.forward, model.calls

    def forward(x: Tensor) -> Tensor:
        model.calls.append(x)
        return plain(x) * model.calls[-1][:, :1]

    model.forward = forward  # type: ignore[method-assign]
    assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
    assert model.calls is calls
    assert len(calls) == 1  # of the gradient


class Makers(OrderedDict[str, Any]):
    """It makes what it is asked for, anew each time."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)()


class Shouted(list[Any]):
    """What comes out is not what it holds."""

    def __iter__(self) -> Iterator[Any]:
        return iter([str(item).upper() for item in super().__iter__()])


MAKERS, SHOUTED = Makers(scale=lambda: 2.0), Shouted(["a"])


def test_containers_that_do_more(x: Tensor) -> None:
    """A registry may call what it holds, and fail at that."""

    def forward(m: Any, x: Tensor) -> Tensor:
        MAKERS["last"] = lambda: x
        SHOUTED.append("b")
        return m.head(MAKERS["last"]) * MAKERS["scale"]

    model, makers = seeded(lambda: Lambda(forward, head=nn.Linear(8, CLASSES))).double(), list(MAKERS.values())
    found = relprop.explain(model, x, rules="gradient").relevance
    assert (list(MAKERS.values()), list.copy(SHOUTED)) == (makers, ["a"])
    assert distance(found, gradient(model, x)) <= 1e-9
    del MAKERS["last"], SHOUTED[1:]


def test_an_observer_beside_it_may_read_numbers(x: Tensor) -> None:
    model, means = seeded(storing.hook_object).double(), []
    model.second.register_forward_hook(lambda module, args, output: means.append(output.mean().item()))
    found = relprop.explain(model, x, rules="gradient").relevance
    assert not means
    assert distance(found, gradient(model, x)) <= 1e-9


def test_what_can_not_be_traced_names_the_hook(x: Tensor) -> None:
    def by_hand(module: nn.Module, args: Any, output: Tensor) -> None:
        module.kept["first"] = torch.tensor(output.tolist(), dtype=output.dtype)  # type: ignore[index]

    model = Lambda(lambda m, x: m.head(m.first(x) + m.first.kept["first"]), first=nn.Linear(8, 6), head=nn.Linear(6, 3))
    model.first.kept = {}
    model.first.register_forward_hook(by_hand)
    with pytest.raises(CaptureError, match=r"the forward hook .*by_hand on 'first'"):
        relprop.explain(model.eval().double(), x)


@pytest.mark.full
def test_timm_collects_features_by_hooks() -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", features_only=True, feature_cls="hook", out_indices=(1, 3))
    model, x = model.eval().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def target(features: list[Tensor]) -> Tensor:
        return features[0].mean((1, 2, 3)) + features[1].mean((1, 2, 3))

    found = relprop.explain(model, x, target=target, rules="gradient").relevance
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(target(model(leaf)).sum(), leaf)
    assert distance(found, expected) <= 1e-9
    assert relprop.explain(model, x, target=target).conservation.error <= 1e-9
