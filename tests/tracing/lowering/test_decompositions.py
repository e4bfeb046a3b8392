"""Composite operations equal what they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from tests.helpers.models import CLASSES, Lambda, distance, gradient, seeded

aten = torch.ops.aten


LENGTH = 5


def _masks() -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    allowed = torch.rand(LENGTH, LENGTH, generator=generator) > 0.3
    allowed |= torch.eye(LENGTH, dtype=torch.bool)
    return {
        "plain": {},
        "bool-mask": {"attn_mask": allowed},
        "float-mask": {"attn_mask": torch.randn(LENGTH, LENGTH, generator=generator)},
        "causal": {"is_causal": True},
        "scale": {"scale": 0.7},
    }


def _by_hand(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    logits = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(LENGTH, LENGTH, dtype=q.dtype).masked_fill(~attn_mask, -math.inf)
    if attn_mask is not None:
        logits = logits + attn_mask.to(q.dtype)
    return logits.softmax(-1) @ v


class Attention(nn.Module):
    def __init__(self, attend: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, CLASSES)
        self.attend = attend
        self.options = {k: v.double() if k == "attn_mask" and v.is_floating_point() else v for k, v in options.items()}

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], LENGTH, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return self.head(self.attend(q, k, v, **self.options).transpose(1, 2).reshape(x.shape[0], LENGTH, 8).mean(1))


@pytest.mark.sweep(every=10)
@pytest.mark.parametrize("options", _masks().values(), ids=_masks())
@pytest.mark.parametrize("rules", ["abslrp", "gradient"])
def test_fused_attention_equals_attention_written_out(options: dict[str, Any], rules: str) -> None:
    x = torch.randn(3, LENGTH, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fused = seeded(lambda: Attention(F.scaled_dot_product_attention, options)).double()
    unfused = seeded(lambda: Attention(_by_hand, options)).double()
    a, b = (relprop.explain(model, x, rules=rules) for model in (fused, unfused))
    torch.testing.assert_close(a.output, b.output)
    assert distance(a.relevance, b.relevance) <= 1e-9
    if rules == "gradient":
        assert distance(a.relevance, gradient(fused, x)) <= 1e-9
    else:
        assert a.conservation.error <= 1e-9
        assert a.relevance.abs().sum() > 0


PADDED = torch.tensor([3, 5, 0])


CLOSED = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(-1)  # the first query has no key


def _padding(lengths: Tensor) -> Tensor:
    inside = torch.arange(LENGTH) < lengths[:, None]
    return inside[:, None, :, None] & inside[:, None, None]


def _infinite(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).double().masked_fill(~mask, -math.inf)


MASKS_THAT_CLOSE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "padding": lambda m, given: _padding(given),
    "padding, in numbers": lambda m, given: _infinite(_padding(given)),
    "no key": lambda m, given: CLOSED,
    "no key, in numbers": lambda m, given: _infinite(CLOSED),
    "no key, held": lambda m, given: m.held,
    "no key, given": lambda m, given: given,
}


@pytest.mark.full
@pytest.mark.parametrize("name", MASKS_THAT_CLOSE)
def test_a_query_without_any_key_attends_to_nothing(name: str) -> None:
    """torch's kernels return 0 there, and softmax itself NaN."""

    def forward(m: nn.Module, x: Tensor, given: Tensor) -> Tensor:
        q, k, v = m.qkv(x).reshape(x.shape[0], LENGTH, 3, 2, 4).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, MASKS_THAT_CLOSE[name](m, given))
        return m.head(attended.transpose(1, 2).flatten(2)).mean(1)

    model = seeded(lambda: Lambda(forward, qkv=nn.Linear(8, 24), head=nn.Linear(8, CLASSES))).double()
    model.register_buffer("held", _infinite(CLOSED))
    x = torch.randn(3, LENGTH, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = _infinite(CLOSED) if name == "no key, given" else PADDED
    a, b = (relprop.explain(model, (x, given), rules=rules) for rules in ("gradient", "abslrp"))
    torch.testing.assert_close(a.output, model(x, given))
    assert relprop.gradient_oracle_error(model, (x, given)) <= 1e-9
    assert b.relevance.isfinite().all()
    assert b.conservation.error <= 1e-9
    assert b.relevance[:2].flatten(1).any(1).all()


@pytest.mark.full
def test_a_learned_bias_of_attention_costs_nothing_more() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(F.scaled_dot_product_attention(x, x, x, m.bias).mean(1))

    model = seeded(lambda: Lambda(forward, bias=nn.Parameter(torch.randn(4, 4)), head=nn.Linear(6, CLASSES)))
    operations = [site.op for site in relprop.Explainer(model).plan(torch.randn(2, 4, 6)).sites.values()]
    assert aten.masked_fill.Scalar not in operations


@pytest.mark.sweep(every=5)
@pytest.mark.parametrize("equation", ["bij,bkj->bik", "bij,bjk->bik", "bij,bij->bi", "bij,kj->bik", "bij,bkl->bil"])
def test_einsum(equation: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        second = m.weight if ",k" in equation else x
        return m.head(torch.einsum(equation, x, second).flatten(1)[:, :6])

    model = seeded(lambda: Lambda(forward, weight=nn.Parameter(torch.randn(6, 6)), head=nn.Linear(6, 3))).double()
    x = torch.randn(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
    e = relprop.explain(model, x)
    assert e.conservation.error <= 1e-9


PLAIN_NAMES: Any = {
    "concat": torch.cat,
    "divide": torch.div,
    "moveaxis": torch.movedim,
    "multiply": torch.mul,
    "negative": torch.neg,
    "subtract": torch.sub,
    "swapaxes": torch.transpose,
    "true_divide": torch.div,
}


@pytest.mark.full
@pytest.mark.parametrize("call", ["clip", "absolute", *PLAIN_NAMES])
def test_operations_of_two_names_are_one(call: str) -> None:
    """Other libraries write ``torch.subtract``, and rules are for ``torch.sub``."""
    arguments: dict[str, Any] = {
        "clip": lambda x: (x, -0.5, 0.5),
        "concat": lambda x: ([x, x.relu()], 1),
        "moveaxis": lambda x: (x, 1, 2),
        "swapaxes": lambda x: (x, 1, 2),
        "absolute": lambda x: (x,),
        "negative": lambda x: (x,),
    }
    plain = {"clip": torch.clamp, "absolute": torch.abs, **PLAIN_NAMES}[call]

    def model(function: Any) -> nn.Module:
        chosen = arguments.get(call, lambda x: (x, x.sigmoid() + 1))
        return seeded(lambda: Lambda(lambda m, x: m.head(function(*chosen(x)).mean(1)), head=nn.Linear(4, 3)))

    x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    one, other = (relprop.Explainer(model(function)) for function in (getattr(torch, call), plain))
    assert [site.op for site in one.plan(x).sites.values()] == [site.op for site in other.plan(x).sites.values()]
    assert torch.equal(one(x).relevance, other(x).relevance)


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("value", [1, -0.5])
def test_a_product_that_is_added_is_a_sum_and_a_product(value: float) -> None:
    def model(function: Any) -> nn.Module:
        return seeded(
            lambda: Lambda(
                lambda m, x: m.head(function(m.shift, m.gain, x * x.mean(1, keepdim=True), value=value)),
                shift=nn.Parameter(torch.randn(6)), gain=nn.Parameter(torch.randn(6)), head=nn.Linear(6, 3),
            )
        )  # fmt: skip

    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    spelled = model(lambda term, a, b, value: term + value * (a * b))
    one, other = relprop.explain(model(torch.addcmul), x), relprop.explain(spelled, x)
    assert one.conservation.error <= 1e-5
    torch.testing.assert_close(one.relevance, other.relevance)


def test_a_norm_of_one_entry_depends_on_nothing() -> None:
    """timm's CSATv2 has attention between its samples, of what such a norm leaves of them: its bias, always."""

    def forward(m: Any, x: Tensor) -> Tensor:
        single = m.norm(m.down(x)).squeeze(1)
        return m.head(x + (single[:, None] * single).softmax(1).sum(1, keepdim=True))

    model = seeded(lambda: Lambda(forward, norm=nn.LayerNorm(1), down=nn.Linear(6, 1), head=nn.Linear(6, 3))).double()
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-12
    e = relprop.explain(model, x)
    assert e.conservation.error <= 1e-9
    assert "aten.layer_norm.default" not in {cut.operation for cut in e.conservation.cuts}
    torch.testing.assert_close(e[1].relevance, relprop.explain(model, x[1:2]).relevance)
