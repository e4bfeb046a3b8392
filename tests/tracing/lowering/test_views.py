"""Views that suit the memory of fused attention, and not that of attention written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from tests.helpers.models import Lambda, seeded

pytestmark = pytest.mark.full
HEADS, WIDTH, TOKENS = 2, 8, 5


def _heads(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (layer(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return F.scaled_dot_product_attention(q, k, v)


def merged_in_order(m: nn.Module, x: Tensor) -> Tensor:
    heads = _heads(m, x).permute(0, 2, 1, 3).contiguous()
    return m.head(heads.view(*heads.size()[:-2], WIDTH).mean(1))


def flattened(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(_heads(m, x).transpose(1, 2).view(x.shape[0], TOKENS * WIDTH))


def beside_what_is_overwritten(m: nn.Module, x: Tensor) -> Tensor:
    merged = _heads(m, x).transpose(1, 2).view(x.shape[0], TOKENS, WIDTH)
    marked = merged * 1
    marked[:, 0] = x[:, 1]
    return m.head(marked.mean(1))


def _made(forward: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    def make() -> nn.Module:
        layers = {name: nn.Linear(WIDTH, WIDTH) for name in ("q", "k", "v")}
        return Lambda(forward, **layers, head=nn.Linear(WIDTH, 3), last=nn.Linear(TOKENS * WIDTH, 3))

    return seeded(make).double()


@pytest.mark.parametrize("forward", [merged_in_order, flattened, beside_what_is_overwritten])
def test_the_gradient_is_that_of_autograd(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = _made(forward)
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    found = relprop.explain(model, x.detach(), target=1, rules="gradient", contrast=None).relevance
    torch.testing.assert_close(found, expected)
    for size in (1, 3):
        y = torch.randn(size, TOKENS, WIDTH, dtype=torch.float64)
        assert relprop.explain(model, y, target=1).relevance.isfinite().all()


def test_what_is_written_through_a_view_is_no_copy() -> None:
    """A copy would keep the heads as they were."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        heads = _heads(m, x)
        heads.transpose(1, 2).view(x.shape[0], TOKENS, WIDTH)[:, 0] = 0
        return m.head(heads.transpose(1, 2).flatten(2).mean(1))

    model = _made(forward)
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    with pytest.raises(relprop.CaptureError, match="made functional: Cannot view"):
        relprop.explain(model, x, target=1)
