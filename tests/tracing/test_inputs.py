"""Several inputs, one of several outputs, and layers by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import CaptureError, InputError
from tests.helpers import models
from tests.helpers.models import Lambda, distance, gradient, make, pictures, seeded


class TestOutputs:
    @pytest.mark.full
    def test_by_key_and_by_index(self) -> None:
        head = nn.Linear(8, 3)
        x = torch.randn(2, 8)
        expected = relprop.explain(Lambda(lambda m, x: m.head(x), head=head).eval(), x).relevance
        named = Lambda(lambda m, x: {"features": x, "logits": m.head(x)}, head=head).eval()
        listed = Lambda(lambda m, x: (x, m.head(x)), head=head).eval()
        assert torch.equal(relprop.explain(named, x, output="logits").relevance, expected)
        assert torch.equal(relprop.explain(listed, x, output=1).relevance, expected)

    def test_callable_target_is_captured(self) -> None:
        model, x = make("plain").double(), pictures(3).double()
        e = relprop.explain(model, x, target=lambda output: output[:, 3] - output[:, 1], rules="gradient")
        x.requires_grad_()
        output = model(x)
        (expected,) = torch.autograd.grad((output[:, 3] - output[:, 1]).sum(), x)
        assert e.target is None
        assert distance(e.relevance, expected) <= 1e-9

    def test_callable_target_of_a_dict(self) -> None:
        model = Lambda(lambda m, x: {"logits": m.head(x)}, head=nn.Linear(8, 3)).eval()
        e = relprop.explain(model, torch.randn(2, 8), target=lambda output: output["logits"][:, 2])
        torch.testing.assert_close(e.relevance.flatten(1).sum(1), torch.ones(2))


class TestInputs:
    def test_positional_and_keyword(self) -> None:
        model = Lambda(lambda m, x, *, y, k=1: m.head(x * y) * k, head=nn.Linear(8, 3)).eval().double()
        x, y = (torch.randn(3, 8, dtype=torch.float64) for _ in range(2))
        e = relprop.explain(model, x, rules="gradient", kwargs={"y": y, "k": 2}, target=0)
        expected = 2 * model.head.weight[0].detach()
        assert set(e.relevances) == {"x", "y"}
        torch.testing.assert_close(e.relevances["x"], expected * y)
        torch.testing.assert_close(e.relevances["y"], expected * x)
        with pytest.raises(relprop.RelpropError, match=r"several sources.*relevances\[x, y\]"):
            _ = e.relevance

    def test_two_positional(self) -> None:
        model = seeded(lambda: Lambda(lambda m, a, b: m.head(a) + m.head(b), head=nn.Linear(8, 3)))
        a, b = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
        e = relprop.explain(model, (a, b), contrast=None)
        assert len(e.relevances) == 2
        torch.testing.assert_close(sum(r.sum(1) for r in e.relevances.values()), torch.ones(3))

    def test_integers_that_look_nothing_up_need_a_module(self) -> None:
        ordered = seeded(lambda: Lambda(lambda m, i: m.head(i.sort(1)[0].float()), head=nn.Linear(7, 3)))
        with pytest.raises(InputError, match='at="embeddings"'):
            relprop.explain(ordered, torch.randint(0, 20, (3, 7)))

    def test_token_indices_at_a_module_and_as_they_are(self) -> None:
        model, tokens = seeded(models.Text), torch.randint(0, 20, (3, 7))
        words = relprop.explain(model, tokens, contrast=None).relevance
        e = relprop.explain(model, tokens, at="embed", contrast=None)
        torch.testing.assert_close(words, e.relevance.sum(2))
        assert e.relevance.shape == (3, 7, 8)
        torch.testing.assert_close(e.relevance.sum((1, 2)), torch.ones(3))

    def test_at_a_module_inside(self) -> None:
        model, x = make("plain").double(), pictures(2).double()
        e = relprop.explain(model, x, at="features.2", rules="gradient")
        hidden = model.features[:3](x).detach()
        rest = nn.Sequential(model.features[3:], model.head)
        assert distance(e.relevance, gradient(rest, hidden)) <= 1e-9


class TestLayers:
    def test_globs_and_shapes(self) -> None:
        e = relprop.explain(make("transformer"), pictures(2), layers=["blocks.*.mlp", "patches"])
        assert list(e.layers) == ["blocks.0.mlp", "blocks.1.mlp", "patches"]
        assert e.layers["blocks.0.mlp"].shape == (2, 5, 12)
        assert e.layers["patches"].shape == (2, 12, 2, 2)

    def test_relevance_at_a_layer_is_the_gradient_there(self) -> None:
        model, x = make("plain").double(), pictures(2).double()
        e = relprop.explain(model, x, layers=["features.2"], rules="gradient")
        rest = nn.Sequential(model.features[3:], model.head)
        assert distance(e.layers["features.2"], gradient(rest, model.features[:3](x).detach())) <= 1e-9

    def test_reused_module_has_a_list(self) -> None:
        model = seeded(lambda: Lambda(lambda m, x: m.head(m.a(m.a(x).relu())), a=nn.Linear(8, 8), head=nn.Linear(8, 3)))
        e = relprop.explain(model, torch.randn(2, 8), layers=["a", "head"])
        assert [r.shape for r in e.layers["a"]] == [(2, 8), (2, 8)]
        assert isinstance(e.layers["head"], Tensor)

    def test_unknown_module(self) -> None:
        with pytest.raises(CaptureError, match=r"no module matches 'blocks\.\*'.*features\.0"):
            relprop.explain(make("plain"), pictures(2), layers=["blocks.*"])


def test_a_picture_without_a_batch_axis_says_what_to_pass() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    with pytest.raises(InputError, match=r"It runs on the same input with a batch axis in front: pass x\[None\]"):
        relprop.explain(model, torch.rand(3, 8, 8))
    with pytest.raises(InputError, match="fails on an input") as found:
        relprop.explain(model, torch.rand(2, 4, 8, 8))
    assert "x[None]" not in str(found.value)
