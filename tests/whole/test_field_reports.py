"""What users ran into: every case once crashed, or was silently wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import relprop
import rule_registry
from tests.helpers.models import Lambda, cosine

aten = torch.ops.aten
CLASS = 0


@pytest.fixture
def x():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval().requires_grad_(False)


@pytest.mark.full
def test_a_hook_replaced_by_another_takes_effect(model, x):
    for scale in (1.0, 2.0, 3.0):
        handle = model[0].register_forward_hook(lambda module, args, out, scale=scale: out * scale)
        torch.testing.assert_close(relprop.explain(model, x).output, model(x))
        handle.remove()
        del handle  # so that the next hook may get the same address


@pytest.mark.full
def test_settings_inside_a_configuration_object_take_effect(x):
    model = Lambda(lambda self, x: self.head(x) * self.config.scale, head=nn.Linear(6, 4)).eval()
    model.config = SimpleNamespace(scale=1.0)
    relprop.explain(model, x)
    model.config.scale = 5.0
    torch.testing.assert_close(relprop.explain(model, x).output, model(x).detach())


@pytest.mark.full
def test_a_target_follows_what_it_refers_to(model, x, monkeypatch):
    def chosen(output):
        return output[:, CLASS]

    first = relprop.explain(model, x, target=chosen)
    monkeypatch.setitem(globals(), "CLASS", 1)
    second = relprop.explain(model, x, target=chosen)
    torch.testing.assert_close(second.relevance, relprop.explain(model, x, target=1, contrast=None).relevance)
    assert not torch.equal(first.relevance, second.relevance)


def test_other_strides_than_those_of_the_capture():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)]
    model, images = nn.Sequential(*layers).eval(), torch.randn(2, 3, 16, 16)
    expected = relprop.explain(model, images).relevance
    found = relprop.explain(model, images.to(memory_format=torch.channels_last)).relevance
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.sweep(every=2)
@pytest.mark.parametrize("at", [None, "0"])
def test_check_of_a_model_that_changes_its_input_in_place(x, at):
    torch.manual_seed(0)
    first = nn.Linear(6, 6) if at else nn.Identity()
    model = nn.Sequential(first, nn.ReLU(inplace=True), nn.Linear(6, 4)).eval()
    report = relprop.check(model, x, at=at)
    assert report.ok, str(report)
    assert (report.stability is None) == (at is not None)


@pytest.mark.full
def test_check_of_a_forward_that_insists_on_its_precision(x):
    report = relprop.check(Lambda(lambda self, x: self.head(x.float()), head=nn.Linear(6, 4)).eval(), x)
    assert report.ok, str(report)
    assert report.oracle_dtype == torch.float32


def test_check_tells_that_relevance_was_lost(model, x):
    model[2].weight[1:] = -model[2].weight[1:].abs()
    model[2].weight[0] = model[2].weight[0].abs()
    report = relprop.check(model, x)
    assert not report.ok
    assert "was lost" in str(report)


@pytest.mark.full
def test_an_operation_of_ones_own(x):
    @torch.library.custom_op("relprop_tests::rectify", mutates_args=())
    def rectify(x: torch.Tensor) -> torch.Tensor:
        return x.relu() + 0

    def setup(ctx, inputs, output):
        ctx.open = (output > 0).to(output)

    rectify.register_fake(torch.empty_like)
    rectify.register_autograd(lambda ctx, grad: grad * ctx.open, setup_context=setup)
    torch.manual_seed(0)
    model = Lambda(lambda self, x: self.head(rectify(self.first(x))), first=nn.Linear(6, 8), head=nn.Linear(8, 4))
    with pytest.raises(relprop.MissingRuleError, match="relprop_tests"):
        relprop.explain(model.eval(), x)
    rules = rule_registry.get("abslrp").derive({torch.ops.relprop_tests.rectify.default: rule_registry.passes})
    assert relprop.check(model.eval(), x, rules=rules).ok
    same = nn.Sequential(model.first, nn.ReLU(), model.head).eval()
    torch.testing.assert_close(relprop.explain(model, x, rules=rules).relevance, relprop.explain(same, x).relevance)


def test_a_constant_input_whose_size_is_that_of_the_example():
    model = Lambda(lambda self, x, moments: self.head((x - moments[0]) / moments[1]), head=nn.Linear(6, 4)).eval()
    e = relprop.explain(model, (torch.randn(5, 6), torch.tensor([0.1, 2.0])))
    assert list(e.relevances) == ["x"]
    assert e.relevance.shape == (5, 6)


def test_keyword_inputs_named_like_our_own(x):
    model = Lambda(lambda self, x, target: self.head(x) + target, head=nn.Linear(6, 4)).eval()
    other = torch.randn(3, 4)
    e = relprop.explain(model, x, target=2, kwargs={"target": other})
    assert e.target.tolist() == [2, 2, 2]
    assert e.relevances["target"].shape == other.shape
    assert relprop.check(model, x, kwargs={"target": other}).ok


def test_an_infinite_attention_mask():
    torch.manual_seed(0)
    attention = nn.functional.scaled_dot_product_attention
    model = Lambda(lambda self, x, mask: self.head(attention(x, x, x, attn_mask=mask).mean(1)), head=nn.Linear(6, 4))
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
    e = relprop.explain(model.eval(), torch.randn(3, 5, 6), kwargs={"mask": mask})
    assert e.relevance.isfinite().all()
    assert e.conservation.error < 1e-5


@pytest.mark.parametrize("rules", ["abslrp", "epsilon", "gradient"])
@pytest.mark.full
def test_classes_masked_out_by_minus_infinity(rules):
    """As if there were no such classes, but for the others' seeds."""
    torch.manual_seed(0)
    mask = torch.tensor([False, False, True, False, True])
    masked = Lambda(lambda self, x: self.head(x).masked_fill(mask, -torch.inf), head=nn.Linear(6, 5)).eval()
    without = Lambda(lambda self, x: self.head(x)[:, [0, 1, 3]], head=masked.head).eval()
    x = torch.randn(3, 6)
    e = relprop.explain(masked, x, rules=rules, contrast=None)
    assert (e.output == -torch.inf).sum() == 6
    expected = relprop.explain(without, x, rules=rules, contrast=None)
    torch.testing.assert_close(e.relevance, expected.relevance)
    torch.testing.assert_close(e.probability, expected.probability)
    report = relprop.check(masked, x, rules=rules, contrast=None)
    assert report.ok, str(report)


def test_a_graph_that_masks_other_classes_than_the_model_is_refused(x):
    class Alternates(nn.Module):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return x.masked_fill(torch.arange(6) == type(self).calls % 2, -torch.inf)

    with pytest.raises(relprop.CaptureError, match="differs by inf"):
        relprop.explain(Alternates().eval(), x)


MASKS = {
    "filled in": lambda scores, mask: scores.masked_fill(mask, float("-inf")),
    "filled in, of numbers": lambda scores, mask: scores.masked_fill(mask, torch.finfo(scores.dtype).min),
    "chosen": lambda scores, mask: torch.where(mask, torch.full([], float("-inf")), scores),
    "added": lambda scores, mask: scores + torch.full(mask.shape, float("-inf")).triu(1),
    "moved": lambda scores, mask: scores.flatten(1).masked_fill(mask.flatten(), float("-inf")).reshape(-1, 4, 4),
}


def _relative(mask, masked_last):
    """Attention whose scores have a bias that is computed from the input, masked before that or after it."""

    def forward(self, x):
        scores, bias = self.query(x) @ self.key(x).transpose(1, 2), self.bias(x) @ x.transpose(1, 2)
        scores = mask(scores + bias, self.mask) if masked_last else mask(scores, self.mask) + bias
        return self.head(scores.softmax(-1).matmul(x).flatten(1))

    torch.manual_seed(0)
    parts = {name: nn.Linear(6, 6) for name in ("query", "key", "bias")}
    return Lambda(forward, mask=torch.ones(4, 4).triu(1).bool(), head=nn.Linear(24, 3), **parts).eval()


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.full
def test_attention_scores_that_are_masked_before_a_bias_is_added(mask):
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    models = [_relative(mask, masked_last) for masked_last in (False, True)]
    before, after = (relprop.explain(model, x, contrast=None, layers=["query", "bias"]) for model in models)
    assert before.conservation.error < 1e-5
    assert before.conservation.lost == 0
    assert cosine(before.relevance, after.relevance) > 0.99
    assert all(float(relevance.sum()) > 0.05 for relevance in before.layers.values())
    assert relprop.explain(models[0], x, rules="epsilon").relevance.isfinite().all()


def test_only_masked_scores_are_treated_as_such():
    def forward(self, x):
        return self.head(self.first(x).relu() + self.second(x).masked_fill(x > 1, -1e4)).softmax(-1)

    layers = {"first": nn.Linear(6, 6), "second": nn.Linear(6, 6), "head": nn.Linear(6, 4)}
    sites = relprop.Explainer(Lambda(forward, **layers).eval()).plan(torch.randn(2, 6)).sites.values()
    assert not any(site.masked for site in sites)


def test_programs_of_many_rule_sets_do_not_pile_up(model, x):
    for _ in range(12):
        relprop.explain(model, x, rules=rule_registry.get("abslrp").derive({aten.relu.default: rule_registry.passes}))
    assert len(relprop.capture(model, (x,)).made) <= 8
