"""What integer inputs look up are sources, however a model spells the look-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from tests.helpers.models import distance

SITES, WIDTH = 5, 4


class Beside(nn.Module):
    """Features of a picture, and a vector that an integer chooses."""

    def __init__(self, look_up: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.look_up = look_up
        self.parts = nn.ModuleDict(parts)
        self.picture, self.head = nn.Conv2d(3, WIDTH, 3), nn.Linear(WIDTH, 3)
        self.emb, self.table = nn.Embedding(SITES, WIDTH), nn.Parameter(torch.randn(SITES, WIDTH))
        self.register_buffer("held", torch.randn(SITES, WIDTH))

    def forward(self, x: Tensor, site: Tensor) -> Tensor:
        features = self.picture(x).relu().mean((2, 3))
        return self.head(F.gelu(features + self.look_up(self, site)))


SPELLINGS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "embedding": (lambda m, i: m.emb(i), lambda m, i: m.emb.weight[i]),
    "one hot": (lambda m, i: F.one_hot(i, SITES).to(m.table) @ m.table, lambda m, i: m.table[i]),
    "one hot, entry by entry": (
        lambda m, i: (F.one_hot(i, SITES)[..., None] * m.table).sum(1),
        lambda m, i: m.table[i],
    ),
    "compared": (
        lambda m, i: F.linear((i[:, None] == torch.arange(SITES)).to(m.table), m.table.T),
        lambda m, i: m.table[i],
    ),
    "a table indexed": (lambda m, i: m.held[i], lambda m, i: m.held[i]),
    "index_select": (lambda m, i: m.table.index_select(0, (i + 1) % SITES), lambda m, i: m.table[(i + 1) % SITES]),
    "gather": (lambda m, i: m.table.gather(0, i[:, None].expand(-1, WIDTH)), lambda m, i: m.table[i]),
    "take": (lambda m, i: m.table.take(i[:, None] * WIDTH + torch.arange(WIDTH)), lambda m, i: m.table[i]),
    "a number": (lambda m, i: i[:, None].to(m.table) * m.table[0], lambda m, i: i[:, None].to(m.table) * m.table[0]),
}
"""How a model looks up, and the vectors that it finds."""


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


def oracle(model: Beside, x: Tensor, found: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Gradient times value at the vectors that were looked up, and the gradient at the picture."""
    vectors, pixels = found.detach().requires_grad_(), x.clone().requires_grad_()
    features = model.picture(pixels).relu().mean((2, 3))
    score = model.head(F.gelu(features + vectors))[:, target].sum()
    gradient, at_pixels = torch.autograd.grad(score, (vectors, pixels))
    return gradient * vectors.detach(), at_pixels


@pytest.mark.sweep(every=9)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_looked_up_has_relevance(spelling: str) -> None:
    look_up, vectors = SPELLINGS[spelling]
    model = Beside(look_up).double().eval()
    x, site = torch.rand(3, 3, 5, 5).double(), torch.tensor([1, 4, 2])
    wanted, at_pixels = oracle(model, x, vectors(model, site), target=1)
    e = relprop.explain(model, (x, site), target=1, rules="gradient")
    picture, name = e.relevances
    assert distance(e.relevance, at_pixels) <= 1e-12
    assert e.relevances[name].shape == site.shape
    torch.testing.assert_close(e.relevances[name], wanted.sum(1))
    assert e.looked_up == (name,)
    times = relprop.explain(model, (x, site), target=1, rules="input-times-gradient")
    torch.testing.assert_close(times.relevances[name], wanted.sum(1))
    torch.testing.assert_close(times.relevances[picture], at_pixels * x)
    plain = relprop.explain(model, (x, site), target=1, contrast=None)
    assert plain.conservation.error <= 1e-9
    totals = torch.stack([value.reshape(3, -1).sum(1) for value in plain.relevances.values()]).sum(0)
    lost = torch.stack([cut.lost[0] for cut in plain.conservation.cuts]).sum(0)
    torch.testing.assert_close(totals + lost, torch.ones(3).double())
    assert (plain.relevances[name] > 0).any()


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_each_row_of_a_bag_has_its_own(mode: str) -> None:
    bag = nn.EmbeddingBag(SITES, WIDTH, mode=mode)
    model = Beside(lambda m, i: m.parts["bag"](i), bag=bag).double().eval()
    x, words = torch.rand(2, 3, 5, 5).double(), torch.tensor([[1, 4, 2], [0, 3, 1]])
    rows = bag.weight[words].detach().requires_grad_()
    pooled = {"sum": rows.sum(1), "mean": rows.mean(1), "max": rows.amax(1)}[mode]
    score = model.head(F.gelu(model.picture(x).relu().mean((2, 3)) + pooled))[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, rows)
    e = relprop.explain(model, (x, words), target=1, rules="gradient")
    found = e.relevances[e.looked_up[0]]
    assert found.shape == words.shape
    torch.testing.assert_close(found, (gradient * rows).detach().sum(2))


def test_columns_of_one_table_are_told_apart() -> None:
    """Categories lie beside one another in one tensor; the first two have one table, the last is not looked at."""
    model = Beside(lambda m, i: m.emb(i[:, 0]) + m.emb(i[:, 2]) * 2).double().eval()
    x, site = torch.rand(2, 3, 5, 5).double(), torch.tensor([[1, 4, 2, 0], [3, 0, 0, 1]])
    vectors = torch.stack([model.emb.weight[site[:, 0]], 2 * model.emb.weight[site[:, 2]]], 1).detach().requires_grad_()
    score = model.head(F.gelu(model.picture(x).relu().mean((2, 3)) + vectors.sum(1)))[:, 0].sum()
    (gradient,) = torch.autograd.grad(score, vectors)
    first, last = (gradient * vectors).detach().sum(2).unbind(1)
    e = relprop.explain(model, (x, site), target=0, rules="gradient")
    nothing = torch.zeros_like(first)
    torch.testing.assert_close(e.relevances[e.looked_up[0]], torch.stack([first, nothing, last, nothing], 1))


def test_one_table_read_twice_and_a_module_on_the_way() -> None:
    model = Beside(lambda m, i: m.emb(i) + m.held[i]).double().eval()
    x, site = torch.rand(2, 3, 5, 5).double(), torch.tensor([3, 1])
    wanted, _ = oracle(model, x, model.emb.weight[site] + model.held[site], target=2)
    e = relprop.explain(model, (x, site), target=2, rules="gradient", layers=["emb"])
    torch.testing.assert_close(e.relevances[e.looked_up[0]], wanted.sum(1))
    layer = relprop.explain(model, (x, site), target=2, layers=["emb"]).layers["emb"]
    assert isinstance(layer, Tensor)
    assert layer.any()


class Words(nn.Module):
    """Token ids alone, with a mask that brings no values."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Parameter(torch.randn(6, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places
        x = x + self.attention(x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


@pytest.mark.full
def test_token_ids_alone_are_explained_word_by_word() -> None:
    model = Words().double().eval()
    ids, mask = torch.randint(0, 20, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    e = relprop.explain(model, (ids, mask), target=1)
    assert list(e.relevances) == list(e.looked_up)
    assert e.relevance.shape == ids.shape
    assert not e.relevance[0, 4:].any(), "words that are masked out"
    assert e.conservation.error <= 1e-9
    rows = model.words.weight[ids].detach().requires_grad_()
    x = rows + model.places
    x = x + model.attention(x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]
    score = model.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, rows)
    found = relprop.explain(model, (ids, mask), target=1, rules="gradient").relevance
    torch.testing.assert_close(found, (gradient * rows).detach().sum(2))


@pytest.mark.full
def test_check_counts_what_is_looked_up() -> None:
    torch.manual_seed(0)
    model = Beside(lambda m, i: m.emb(i)).eval()
    x, site = torch.rand(2, 3, 9, 9), torch.tensor([1, 4])
    report = relprop.check(model, (x, site))
    assert report.ok, str(report)
    assert report.oracle_error <= 1e-9


def test_a_chunk_and_an_exported_program_give_the_same() -> None:
    model = Beside(lambda m, i: m.emb(i[:, 1])).eval()
    x, site = torch.rand(5, 3, 5, 5), torch.randint(0, SITES, (5, 2))
    whole = relprop.explain(model, (x, site), target=1, batch_size=5)
    chunks = relprop.explain(model, (x, site), target=1, batch_size=2)
    for name, value in whole.relevances.items():
        torch.testing.assert_close(chunks.relevances[name], value)
    one = whole[1:2]
    assert one.relevances[one.looked_up[0]].shape == (1, 2)


def test_integers_that_look_nothing_up_are_no_sources() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 3)

        def forward(self, x: Tensor, which: Tensor) -> Any:
            return self.one(x * (which[:, None] > 0) + x.gather(1, which[:, None]))

    inputs = (torch.rand(2, 4), torch.tensor([1, 3]))
    e = relprop.explain(Chosen().eval(), inputs, target=0)
    assert not e.looked_up
    assert len(e.relevances) == 1
    assert "has no relevance of its own: it looks nothing up" in str(relprop.check(Chosen().eval(), inputs))
