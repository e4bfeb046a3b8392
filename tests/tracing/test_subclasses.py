"""Tensors of classes of their own: plain inside, and relevance comes back as the input came."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

import relprop
from relprop import InputError
from tests.helpers.models import Lambda, distance, gradient, kept, pictures, seeded


class Described(Tensor):
    """As medical images have what is known of them, and hand it on to whatever is computed."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_function__(func, types, args, kwargs or {})
        known = next((vars(arg) for arg in args if isinstance(arg, Described)), {})
        if isinstance(made, Described):
            vars(made).update(known)
        return made


class Named(Tensor):
    """It has only one attribute."""

    __slots__ = ("label",)


class Closed(Tensor):
    """Nobody may give it an attribute that it did not make itself."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} is made by the constructor")


class Pair(Tensor):
    """A tensor that is none, but holds two."""

    @staticmethod
    def __new__(cls, a: Tensor, b: Tensor) -> Pair:
        return Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype)

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["a", "b"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], *rest: Any) -> Pair:
        return cls(inner["a"], inner["b"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("nobody may compute with it")


def described(x: Tensor) -> Tensor:
    made = x.as_subclass(Described)
    made.meta = {"affine": torch.eye(4), "file": "a.nii"}
    return made


def closed(x: Tensor) -> Tensor:
    made = x.as_subclass(Closed)
    vars(made)["known"] = 1
    return made


KINDS: dict[str, Any] = {
    "of torchvision": tv_tensors.Image,
    "with metadata": described,
    "without a dict of its own": lambda x: x.as_subclass(Named),
    "closed": closed,
}


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_as_its_class(kind: str) -> None:
    model, x = kept("plain"), pictures(3)
    given = KINDS[kind](x)
    assert type(given) is not Tensor
    expected, e = relprop.explain(model, x), relprop.explain(model, given)
    assert type(e.relevance) is (Tensor if kind == "closed" else type(given))
    assert torch.equal(e.relevance.as_subclass(Tensor), expected.relevance)
    assert torch.equal(torch.as_tensor(e.heatmap()).as_subclass(Tensor), expected.heatmap())
    assert e.conservation.error <= 1e-5
    assert all(type(tensor) is Tensor for tensor in (e.output, e.target))
    if kind == "with metadata":
        assert e.relevance.meta == given.meta
        assert e.relevance.meta is not given.meta


@pytest.mark.full
def test_a_volume_of_monai() -> None:
    if find_spec("monai") is None:
        pytest.skip("MONAI is not installed")
    from monai.data import MetaTensor
    from monai.networks.nets import BasicUNet

    network = seeded(lambda: BasicUNet(3, 1, 2, features=(4, 4, 4, 4, 4, 4), norm="batch")).double()
    model = Lambda(lambda m, x: m.network(x).mean((2, 3, 4)), network=network).eval()
    x = torch.randn(2, 1, 16, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = MetaTensor(x, affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])), meta={"patient": "a"})
    found = relprop.explain(model, given, rules="gradient")
    assert type(found.relevance) is MetaTensor
    assert torch.equal(found.relevance.affine, given.affine)
    assert (found.relevance.meta["patient"], given.meta["patient"]) == ("a", "a")
    assert distance(found.relevance.as_subclass(Tensor), gradient(model, x)) <= 1e-9
    assert relprop.explain(model, given).conservation.error <= 1e-9


def test_among_several_inputs() -> None:
    model = Lambda(lambda m, x, y: m.head(x * y), head=nn.Linear(8, 3)).eval().double()
    x, y = torch.randn(2, 8).double(), torch.randn(2, 8).double()
    e = relprop.explain(model, (x,), kwargs={"y": described(y)}, rules="gradient")
    assert [type(e.relevances[name]) for name in ("x", "y")] == [Tensor, Described]
    beside = Lambda(lambda m, x: model(x, y), inner=model).eval()
    assert distance(e.relevances["x"], gradient(beside, x)) <= 1e-9


def test_one_that_holds_others_is_refused() -> None:
    with pytest.raises(InputError, match=r"is a Pair, which holds other tensors: pass a plain one"):
        relprop.explain(kept("plain"), Pair(pictures(2), pictures(2)))
