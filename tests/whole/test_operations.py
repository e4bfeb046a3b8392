"""Operations that people use in forwards, through whole models: captured, exact, covered by rules, conserved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from tests.helpers.models import Lambda, distance, seeded

SHAPE = (3, 4, 6)
PLACES = (torch.arange(4)[:, None] + torch.arange(6)) % 4


def shifted(x: Tensor) -> Tensor:
    return x.roll(1, 1)


def places(x: Tensor) -> Tensor:
    return PLACES[None].expand(x.shape[0], 4, 6)


def transformed(x: Tensor) -> Tensor:
    """A spatial transformer: the grid is computed from the input too."""
    theta = torch.eye(2, 3, dtype=x.dtype) + 0.1 * x[:, :2, :3]
    grid = F.affine_grid(theta, [x.shape[0], 1, 4, 6], align_corners=False)
    return F.grid_sample(x[:, None], grid, align_corners=False)


def written(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, torch.tensor([0, 2])] = x[:, :2] * 2
    return y


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sine": lambda x: torch.sin(3 * x),
    "logarithm": lambda x: torch.log1p(x.abs()),
    "quantised": lambda x: x + (torch.round(x * 4) / 4 - x).detach(),
    "signed root": lambda x: x.sign() * x.abs().sqrt(),
    "soft shrink": F.softshrink,
    "power mean": lambda x: F.lp_pool1d(x, 2, 2),
    "power": lambda x: torch.pow(x.abs() + 0.1, x),
    "angle": lambda x: torch.atan2(x, shifted(x)),
    "larger": lambda x: torch.max(x, shifted(x)),
    "bounded": lambda x: x.clamp(-shifted(x).abs(), shifted(x).abs()),
    "smooth maximum": lambda x: x.logsumexp(1),
    "smooth maximum of two": lambda x: torch.logaddexp(x, shifted(x)),
    "product": lambda x: x.prod(1),
    "transmittance": lambda x: x.sigmoid().cumprod(1),
    "least": lambda x: x.amin(1),
    "extremes": lambda x: torch.cat(x.aminmax(dim=1), -1),
    "median": lambda x: x.median(1).values,
    "quantile": lambda x: x.quantile(0.4, 1),
    "sorted": lambda x: x.sort(1).values,
    "largest magnitude": lambda x: torch.linalg.vector_norm(x, float("inf"), 1),
    "length of two": lambda x: torch.hypot(x, shifted(x)),
    "scattered": lambda x: torch.zeros_like(x).scatter(1, places(x), x),
    "sum at places": lambda x: x.new_zeros(x.shape[0], 4, 6).scatter_add(1, places(x) // 2, x),
    "mean at places": lambda x: x.new_zeros(x.shape[0], 4, 6).scatter_reduce(1, places(x) // 2, x, "mean"),
    "messages": lambda x: x.new_zeros(x.shape[0], 4, 6).index_add(1, torch.tensor([0, 1, 1, 3]), x),
    "copied": lambda x: torch.zeros_like(x).index_copy(1, torch.tensor([3, 1, 0, 2]), x),
    "written": written,
    "filled": lambda x: x.index_fill(1, torch.tensor([1]), 0.0),
    "triangle": torch.tril,
    "diagonal": lambda x: torch.diagonal(x, dim1=1, dim2=2),
    "diagonal matrix": torch.diag_embed,
    "unpooled": lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2),
    "sampled": transformed,
    "between": lambda x: torch.lerp(x, shifted(x), 0.3),
    "gated between": lambda x: torch.lerp(x, shifted(x), x.sigmoid()),
    "quotient added": lambda x: torch.addcdiv(x, shifted(x), x.exp(), value=0.5),
    "product added": lambda x: torch.baddbmm(x[:, :, :4], x, shifted(x).transpose(1, 2), beta=0.5, alpha=2),
    "bilinear": lambda x: F.bilinear(x, shifted(x), x.new_ones(3, 6, 6), x.new_ones(3)),
    "distances": lambda x: torch.cdist(x, shifted(x)),
    "distance": lambda x: F.pairwise_distance(x, shifted(x)),
    "cross": lambda x: torch.linalg.cross(x[..., :3], x[..., 3:]),
    "matrix power": lambda x: torch.linalg.matrix_power(x[:, :, :4], 3),
    "contracted": lambda x: torch.tensordot(x, x.new_ones(6, 3), 1),
    "differences": lambda x: x.diff(dim=1),
    "beside": lambda x: torch.hstack([x, x]),
    "deviation and mean": lambda x: torch.cat(torch.std_mean(x, 1), -1),
    "without gaps": lambda x: x.nanmean(1) + torch.nan_to_num(x).nansum(1),
    "squared error": lambda x: F.mse_loss(x, torch.zeros_like(x), reduction="none"),
    "huber": lambda x: F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none"),
}


def of(operation: Callable[[Tensor], Tensor]) -> nn.Module:
    return seeded(lambda: Lambda(lambda m, x: operation(m.lin(x)).flatten(1), lin=nn.Linear(6, 6)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(*SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.sweep(every=32)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_nobody_writes_that_it_has_no_rule(operation: Callable[[Tensor], Tensor], x: Tensor) -> None:
    model = of(operation)
    assert relprop.gradient_oracle_error(model, x, target=1) <= 1e-8
    found = relprop.explain(model, x, target=1)
    assert found.relevance.isfinite().all()
    assert found.conservation.error <= 1e-5
    assert found.conservation.suspects == ()
    assert relprop.explain(model, x, target=1, rules="epsilon").relevance.isfinite().all()
    alone = relprop.explain(model, x[1:2], target=1)
    assert distance(alone.relevance[0], found.relevance[1]) <= 1e-4, "samples do not depend on their neighbours"


SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "larger": (lambda x: torch.max(x, shifted(x)), lambda x: torch.maximum(x, shifted(x))),
    "smooth maximum": (
        lambda x: torch.logaddexp(x, shifted(x)),
        lambda x: torch.stack([x, shifted(x)], 1).logsumexp(1),
    ),
    "between": (lambda x: torch.lerp(x, shifted(x), 0.3), lambda x: x * (1 - 0.3) + shifted(x) * 0.3),
    "quotient added": (
        lambda x: torch.addcdiv(x, shifted(x), x.exp()),
        lambda x: x + shifted(x) / x.exp(),
    ),
    "distance": (
        lambda x: torch.cdist(x, shifted(x)),
        lambda x: (x[:, :, None] - shifted(x)[:, None]).norm(dim=-1),
    ),
    "floor": (lambda x: torch.div(x, 0.3, rounding_mode="floor"), lambda x: (x / 0.3).floor()),
    "written": (written, lambda x: torch.stack([x[:, 0] * 2, x[:, 1], x[:, 1] * 2, x[:, 3]], 1)),
}


@pytest.mark.sweep(every=14)
@pytest.mark.parametrize("rules", ["abslrp", "epsilon"])
@pytest.mark.parametrize("spellings", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spellings_of_one_operation(spellings: tuple[Any, Any], rules: str, x: Tensor) -> None:
    found, expected = (relprop.explain(of(one).double(), x.double(), target=2, rules=rules) for one in spellings)
    torch.testing.assert_close(found.output, expected.output)
    assert distance(found.relevance, expected.relevance) <= 1e-6


LIKELIHOODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross entropy": lambda out, y: -F.cross_entropy(out, y, reduction="none"),
    "likelihood": lambda out, y: -F.nll_loss(out.log_softmax(1), y, reduction="none"),
    "by hand": lambda out, y: out.log_softmax(1).gather(1, y[:, None])[:, 0],
}


@pytest.mark.sweep(every=16)
@pytest.mark.parametrize("rules", ["abslrp", "epsilon", "gradient"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_is_a_target(name: str, rules: str, x: Tensor) -> None:
    """torch (2.15) loses the batch of a loss in a graph of dynamic batch."""
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 5))).double()

    def target(out: Tensor) -> Tensor:
        return LIKELIHOODS[name](out, out.argmax(1))

    found = relprop.explain(model, x.double(), target=target, rules=rules)
    expected = relprop.explain(model, x.double(), target=lambda out: out.log_softmax(1).amax(1), rules=rules)
    assert distance(found.relevance, expected.relevance) <= 1e-9


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("value", [-1e4, -1e9, float("-inf")])
def test_what_stands_for_minus_infinity_stays_out_of_the_stabiliser(value: float) -> None:
    """Masks that are added to attention logits, in whatever number people write them."""
    closed = torch.ones(4, 4, dtype=torch.bool).triu(1)

    def forward(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.head((((q @ k.transpose(1, 2)) + mask).softmax(-1) @ v).mean(1))

    def model(number: float) -> nn.Module:
        mask = torch.zeros(4, 4).masked_fill(closed, number)
        return seeded(lambda: Lambda(lambda m, x: forward(m, x, mask), qkv=nn.Linear(6, 18), head=nn.Linear(6, 5)))

    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
    found, expected = (relprop.explain(model(number), x).relevance for number in (value, torch.finfo().min))
    assert distance(found, expected) <= 1e-4


@pytest.mark.full
def test_a_norm_written_out_is_no_sign_of_a_deleting_rule() -> None:
    """Relevance may lie where a quotient is positive alone, so that the deviation receives nothing."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x)
        centred = x - x.mean(1, keepdim=True)
        return m.head(F.gelu(centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt() + m.shift).flatten(1))

    for seed in range(4):
        parts = {"conv": nn.Conv2d(3, 6, 3), "head": nn.Linear(216, 5), "shift": nn.Parameter(torch.zeros(6, 1, 1))}
        model = seeded(lambda parts=parts: Lambda(forward, **parts), seed)
        assert relprop.explain(model, torch.randn(3, 3, 8, 8)).conservation.suspects == ()


def test_advice_for_an_operation_without_a_rule(x: Tensor) -> None:
    with pytest.raises(relprop.MissingRuleError) as caught:
        relprop.explain(of(lambda x: x.logcumsumexp(1)), x)
    assert "passes" not in str(caught.value), "relevance can't pass where positions meet"
    chosen = rule_registry.get("abslrp").derive(default=rule_registry.positive_contribution)
    assert relprop.explain(of(lambda x: x.logcumsumexp(1)), x, rules=chosen).relevance.isfinite().all()
    with pytest.raises(relprop.MissingRuleError, match="passes"):
        relprop.explain(of(torch.erfinv), x.clamp(-0.1, 0.1))


def test_an_operation_without_a_gradient_is_named(x: Tensor) -> None:
    model = of(lambda x: torch.heaviside(x, x.new_zeros(())) + x)
    with pytest.raises(relprop.RuleError, match=r"aten\.heaviside\.default .*has no gradient"):
        relprop.explain(model, x, rules="gradient")
