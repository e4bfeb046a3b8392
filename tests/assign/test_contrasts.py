"""Contrasts: the judge of the log-odds is autograd's derivative of log p_t / (1 - p_t), that of one pass are two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
import rule_registry
from relprop.errors import TargetError
from relprop.explanation.captions import arriving, caption_words, contrast_words, map_difference
from tests.helpers.models import CLASSES, Lambda, distance, kept, make, pictures, seeded

aten = torch.ops.aten


def ending(behind: Callable[[Any, Tensor], Tensor], **members: Any) -> nn.Module:
    """A small classifier in 64 bits with something behind its scores."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return behind(m, m.body(x))

    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(216, CLASSES))
    return seeded(lambda: Lambda(forward, body=body, **members)).double()


def log_odds_gradient(scores: Callable[[Tensor], Tensor], x: Tensor, target: Sequence[int]) -> Tensor:
    source = x.clone().requires_grad_()
    p = scores(source).softmax(1)[range(len(x)), list(target)]
    return torch.autograd.grad((p.log() - (1 - p).log()).sum(), source)[0]


TARGET = [1, 4, 0]
SOFT: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scores": lambda m, z: z,
    "softmax": lambda m, z: z.softmax(1),
    "log-softmax": lambda m, z: F.log_softmax(z, -1),
    "moves and casts behind": lambda m, z: (
        z[:, :, None, None].softmax(1).flip(1).clone().flatten(1).flip(1).to(z.dtype)
    ),
    "reversed": lambda m, z: z.unsqueeze(2).log_softmax(1).permute(0, 2, 1)[:, 0],
}


class TestLogOdds:
    @pytest.mark.sweep(every=5)
    @pytest.mark.parametrize("behind", SOFT.values(), ids=SOFT)
    def test_is_the_gradient_of_the_log_odds(self, behind: Callable[[Any, Tensor], Tensor]) -> None:
        model, x = ending(behind), pictures(3).double()
        found = relprop.explain(model, x, target=TARGET, rules="gradient", contrast="log-odds")
        assert found.contrast == "log-odds"
        assert distance(found.relevance, log_odds_gradient(model.body, x, TARGET)) <= 1e-9
        assert torch.equal(found.output, model(x))

    def test_the_seed_is_the_gradient_with_respect_to_the_scores(self) -> None:
        model, z = nn.Sequential(nn.Identity()).eval(), torch.randn(4, 6, dtype=torch.float64)
        plus = Lambda(lambda m, z: m.inner(z) + 0.0, inner=model).eval()
        target = [0, 5, 2, 2]
        expected = log_odds_gradient(lambda z: z, z, target)
        torch.testing.assert_close(
            relprop.explain(plus, z, target=target, rules="gradient", contrast="log-odds").relevance, expected
        )
        # Where the output is the seed, each entry of it is weighed with its own score.
        weighed = relprop.explain(plus, z, target=target, rules="lrp-0", contrast="log-odds")
        torch.testing.assert_close(weighed.relevance, expected * z)

    @pytest.mark.sweep(every=5)
    @pytest.mark.parametrize("rules", ["gradient", "epsilon-plus", "attnlrp", "abslrp", "abslrp-released"])
    def test_a_softmax_at_the_end_changes_nothing(self, rules: str) -> None:
        x = pictures(3).double()
        plain, soft = ending(lambda m, z: z), ending(SOFT["moves and casts behind"])
        soft.load_state_dict(plain.state_dict())
        one, other = (relprop.explain(m, x, rules=rules, contrast="log-odds") for m in (plain, soft))
        assert distance(other.relevance, one.relevance) <= 1e-9
        assert torch.equal(one.target, other.target)

    @pytest.mark.sweep(every=3)
    @pytest.mark.parametrize("gap", [28.0, 60.0, 2000.0])  # p_t = 1 - 3e-12, 1 - 3e-26, 1
    @pytest.mark.parametrize("behind", [SOFT["scores"], SOFT["softmax"]], ids=["scores", "softmax"])
    def test_is_finite_however_sure_the_model_is(self, behind: Callable[[Any, Tensor], Tensor], gap: float) -> None:
        model, z = Lambda(lambda m, z: behind(m, 1.0 * z + 0.0)).eval(), torch.zeros(2, 5)
        z[:, 3] = gap
        z[1, 0] = 2.0
        for rules in ("gradient", "abslrp"):
            e = relprop.explain(model, z + 0.5 if rules == "abslrp" else z, rules=rules, contrast="log-odds")
            assert e.relevance.isfinite().all()
            assert e.target.tolist() == [3, 3]
            expected = (
                F.one_hot(e.target, 5) - F.pad(z[:, [0, 1, 2, 4]].double().softmax(1), (0, 1))[:, [0, 1, 2, 4, 3]]
            )
            torch.testing.assert_close(e.relevance.double(), expected, rtol=1e-5, atol=1e-6)

    def test_classes_masked_out_take_no_part(self) -> None:
        masked = torch.tensor([False, True, False, False, True])
        model, x = ending(lambda m, z: z.masked_fill(masked, -torch.inf)), pictures(3).double()
        expected = log_odds_gradient(lambda x: model.body(x)[:, [0, 2, 3]], x, [0, 1, 2])
        found = relprop.explain(model, x, target=[0, 2, 3], rules="gradient", contrast="log-odds")
        assert distance(found.relevance, expected) <= 1e-9
        alone = ending(lambda m, z: z.masked_fill(torch.arange(CLASSES) != 2, -torch.inf))
        e = relprop.explain(alone, x, rules="gradient", contrast="log-odds")  # nothing to set it against
        assert distance(e.relevance, relprop.explain(alone, x, rules="gradient", contrast=None).relevance) <= 1e-12

    def test_two_seeds_of_mass_one_under_abslrp(self) -> None:
        model, x = kept_double("plain"), pictures(3).double()
        e = relprop.explain(model, x, contrast="log-odds")
        assert e.seeds["x"].shape[0] == 2
        torch.testing.assert_close(e.seeds["x"].sum((2, 3, 4)), torch.ones(2, 3, dtype=torch.float64))
        assert e.conservation.error <= 1e-9
        near = relprop.explain(model, x, contrast="rest")
        assert distance(e.relevance, near.relevance) > 1e-3

    @pytest.mark.sweep(every=10)
    @pytest.mark.parametrize(
        ("behind", "words"),
        [
            (lambda m, z: z.sigmoid(), "ends in a sigmoid"),
            (lambda m, z: F.logsigmoid(z).squeeze(-1), "ends in a sigmoid"),
            (lambda m, z: torch.stack([z.sigmoid(), (2 * z).sigmoid()]).mean(0), "ends in a sigmoid"),
            (lambda m, z: F.cosine_similarity(z[:, None], m.w, dim=-1), "cosine similarities without a scale"),
            (lambda m, z: F.normalize(z) @ F.normalize(m.w).t(), "cosine similarities without a scale"),
            (lambda m, z: F.linear(z / z.norm(dim=-1, keepdim=True), m.held), "cosine similarities without a scale"),
            (lambda m, z: (z.softmax(1) + (2 * z).softmax(1)) / 2, "probabilities already"),
            (lambda m, z: torch.stack([z.softmax(1), (2 * z).softmax(1)], 2).mean(2), "probabilities already"),
            (lambda m, z: z.exp() / z.exp().sum(1, keepdim=True), "probabilities already"),
            (lambda m, z: torch.cat([z, z[:, :1]], 1).softmax(1)[:, :CLASSES], "probabilities already"),
        ],
    )
    def test_refused_where_asked_for_and_the_rest_by_default(
        self, behind: Callable[[Any, Tensor], Tensor], words: str
    ) -> None:
        w = torch.randn(CLASSES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        model, x = ending(behind, w=w, held=F.normalize(w)), pictures(3).double()
        with pytest.raises(
            TargetError, match=rf'contrast .log-odds. needs class scores .*{words}.* pass contrast="rest"'
        ):
            relprop.explain(model, x, contrast="log-odds", rules="gradient")
        own = replace(rule_registry.get("gradient"), contrast="log-odds")
        e = relprop.explain(model, x, rules=own)
        assert e.contrast == "rest"
        assert torch.equal(e.relevance, relprop.explain(model, x, rules="gradient", contrast="rest").relevance)

    @pytest.mark.sweep(every=4)
    @pytest.mark.parametrize(
        "behind",
        [
            lambda m, z: 10 * F.cosine_similarity(z[:, None], m.w, dim=-1),
            lambda m, z: F.normalize(z) @ F.normalize(m.w).t() * m.w[0, 0].exp(),
            lambda m, z: F.linear(F.normalize(z), m.w),
            lambda m, z: z.relu(),
        ],
    )
    def test_scores_that_a_softmax_turns_into_probabilities(self, behind: Callable[[Any, Tensor], Tensor]) -> None:
        w = torch.randn(CLASSES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        model, x = ending(behind, w=w), pictures(3).double()
        found = relprop.explain(model, x, target=TARGET, rules="gradient", contrast="log-odds")
        assert distance(found.relevance, log_odds_gradient(model, x, TARGET)) <= 1e-9

    def test_is_refused_behind_the_softmax(self) -> None:
        model = ending(lambda m, z: m.last(z), last=nn.Softmax(1))
        with pytest.raises(TargetError, match="at='last' is behind them"):
            relprop.explain(model, pictures(2).double(), at="last", contrast="log-odds")
        with pytest.raises(TargetError, match="contrast=None"):
            relprop.explain(model, pictures(2).double(), target=lambda o: o[:, 0], contrast="log-odds")

    def test_a_plan_says_where_relevance_starts(self) -> None:
        model = ending(lambda m, z: m.last(z), last=nn.Softmax(1))
        explainer = relprop.Explainer(model, contrast="log-odds", rules="epsilon")
        assert explainer.plan(pictures(2).double()).why("last") == (
            "passes, as the contrast starts at the scores before the softmax"
        )


def two_seeds(rules: rule_registry.RuleSet) -> rule_registry.RuleSet:
    """The same rules, of which one says that it is not linear."""
    op, rule = next(iter(rules.table.items()))
    return replace(rules, table={**rules.table, op: replace(rule, linear=False)})


BOUNDS = {"low": -4.0, "high": 4.0}
CONTRASTS: list[Any] = ["rest", "log-odds", 3, [0, 3, 2]]


@cache
def kept_double(kind: str) -> nn.Module:
    """A model in 64 bits, captured once for all tests that leave it as it is."""
    return make(kind).double()


class TestOnePass:
    @pytest.mark.sweep(every=26)
    @pytest.mark.parametrize("kind", ["convolutional", "transformer"])
    @pytest.mark.parametrize("name", [name for name in rule_registry.names() if "/" not in name])
    def test_is_the_difference_of_two(self, name: str, kind: str) -> None:
        if name in ("abslrp-released", "abslrp-paper"):
            kind = "plain"  # it knows the operations of its authors' models alone
        known = rule_registry.get(name).parameters
        rules = rule_registry.get(name, **{key: value for key, value in BOUNDS.items() if key in known})
        model, x = kept_double(kind), pictures(3).double()
        for contrast in CONTRASTS:
            e = relprop.explain(model, x, target=TARGET, rules=rules, contrast=contrast)
            assert e.seeds["x"].shape[0] == (1 if rules.linear else 2)
            assert e.relevance.isfinite().all()
            both = relprop.explain(model, x, target=TARGET, rules=two_seeds(rules), contrast=contrast)
            assert both.seeds["x"].shape[0] == 2
            assert distance(e.relevance, both.relevance) <= 1e-6
            if rules.linear:
                assert distance(e.relevance, both.seeds["x"][0] - both.seeds["x"][1]) <= 1e-6

    @pytest.mark.parametrize("name", ["guided-backprop", "deconvnet", "abslrp-released", "abslrp-paper"])
    def test_rules_that_part_signs_say_that_they_are_not_linear(self, name: str) -> None:
        """They would be something else in one pass."""
        rules, x = rule_registry.get(name), pictures(3).double()
        assert not rules.linear
        table = {op: replace(rule, linear=True) for op, rule in rules.table.items()}
        overrides = tuple((where, replace(rule, linear=True)) for where, rule in rules.overrides)
        forced = replace(rules, table=table, overrides=overrides)
        assert forced.linear
        model = kept_double("plain")
        one, two = (relprop.explain(model, x, rules=r, contrast="rest").relevance for r in (forced, rules))
        assert distance(one, two) > 1e-3

    def test_a_function_of_ones_own_is_taken_for_linear_if_it_says_so(self) -> None:
        def halved(call: rule_registry.Call, relevance: Tensor) -> Tensor:
            return relevance / 2

        epsilon = rule_registry.get("epsilon")
        assert epsilon.linear
        assert not epsilon.derive({aten.relu.default: halved}).linear
        assert epsilon.derive({aten.relu.default: rule_registry.Rule("halved", halved, linear=True)}).linear
        assert epsilon.derive({aten.relu.default: rule_registry.passes}).linear
        assert not rule_registry.get("abslrp").linear

    def test_hooks_see_one_seed_of_both_signs(self) -> None:
        seen = []

        def hook(info: relprop.NodeInfo, relevance: Tensor) -> None:
            seen.append((info.seeds, relevance.shape[0]))

        for rules in ("gradient", "guided-backprop"):
            relprop.explain(kept("plain"), pictures(2), rules=rules, contrast="log-odds", hooks={"features.0": hook})
        assert seen == [(("target minus log-odds",), 1), (("target", "log-odds"), 2)]

    @pytest.mark.parametrize("rules", ["epsilon", "excitation-backprop"])
    @pytest.mark.parametrize("contrast", CONTRASTS)
    def test_masses_are_told_over_the_magnitude_of_the_seed(self, rules: str, contrast: Any) -> None:
        model, x = kept_double("convolutional"), pictures(3).double()
        e = relprop.explain(model, x, target=TARGET, rules=rules, contrast=contrast)
        both = relprop.explain(model, x, target=TARGET, rules=two_seeds(rule_registry.get(rules)), contrast=contrast)
        kept = e.conservation
        assert kept.signed
        assert kept.error <= 1e-9
        z = model(x) if rules == "epsilon" else torch.ones(3, CLASSES).double()
        t = F.one_hot(torch.tensor(TARGET), CLASSES).double()
        q = {
            "rest": lambda: (1 - t) / (CLASSES - 1),
            "log-odds": lambda: (model(x).softmax(1) * (1 - t)) / (model(x).softmax(1) * (1 - t)).sum(1, keepdim=True),
        }.get(
            contrast if isinstance(contrast, str) else "", lambda: F.one_hot(torch.as_tensor(contrast).expand(3), 5)
        )()
        unit = ((t - q) * z).abs().sum(1)
        torch.testing.assert_close(kept.at_output[0], ((t - q) * z).sum(1) / unit)
        mass = (both.seeds["x"][0] - both.seeds["x"][1]).sum((1, 2, 3))
        torch.testing.assert_close(kept.masses[-1][0], mass / unit)
        assert kept.masses.isfinite().all()
        assert "one seed of both signs" in str(kept)
        torch.testing.assert_close(kept.take(slice(1, 2)).errors, kept.errors[1:2])
        assert "nan" not in str(kept)

    def test_nothing_is_said_of_a_second_map(self) -> None:
        e = relprop.explain(kept("plain"), pictures(2), rules="epsilon", contrast="rest")
        assert map_difference(e) is None
        assert arriving(e) is None
        assert "differ" not in caption_words(e)
        assert contrast_words(e) == "against all other classes alike"


class TestClassesOfEachSample:
    @pytest.mark.parametrize("rules", ["abslrp", "gradient", "epsilon"])
    @pytest.mark.parametrize("batch_size", [None, 2, "auto"])
    def test_are_those_of_each_sample_alone(self, rules: str, batch_size: int | Literal["auto"] | None) -> None:
        model, x = kept_double("plain"), pictures(5).double()
        target, others = [1, 0, 4, 2, 2], [0, 3, 2, 1, 4]
        found = relprop.explain(model, x, target=target, contrast=others, rules=rules, batch_size=batch_size)
        assert found.contrast.tolist() == others
        for k in range(5):
            one = relprop.explain(model, x[k : k + 1], target=target[k], contrast=others[k], rules=rules)
            assert distance(found.relevance[k : k + 1], one.relevance) <= 1e-9
        assert found[1:3].contrast.tolist() == [3, 2]
        tensor = relprop.explain(model, x, target=target, contrast=torch.tensor(others), rules=rules)
        assert distance(tensor.relevance, found.relevance) <= 1e-12

    def test_the_program_takes_them(self) -> None:
        model, x = kept("plain"), pictures(3)
        explainer = relprop.Explainer(model, contrast=[0, 3, 2])
        found, program = explainer(x, TARGET), explainer.program(x, TARGET)
        ran = program(x, torch.tensor(TARGET), torch.tensor([0, 3, 2]))
        assert distance(ran["relevance"][0], found.seeds["x"]) <= 1e-6
        with pytest.raises(ValueError, match="give it these as contrast"):
            program(x, torch.tensor(TARGET))
        again = relprop.Explainer(model, contrast=[4, 0, 1])
        assert again.program(x, TARGET) is program, "one program for whatever classes"
        baked = relprop.Explainer(model, contrast=3)
        alone = baked.program(x)(x, torch.tensor([1, 0, 0]))["relevance"][0]
        assert distance(alone, baked(x, [1, 0, 0]).seeds["x"]) <= 1e-6

    @pytest.mark.full
    @pytest.mark.parametrize("rules", ["abslrp", "epsilon"])
    @pytest.mark.parametrize("contrast", ["log-odds", [0, 3]])
    def test_exported(self, rules: str, contrast: Any, tmp_path: Any) -> None:
        model, x = ending(lambda m, z: z.softmax(1)[:, :, None].squeeze(2)), pictures(2).double()
        explainer = relprop.Explainer(model, contrast=contrast, rules=rules)
        given: tuple[Tensor, ...] = (x, torch.tensor([1, 2]))
        given += () if isinstance(contrast, str) else (torch.tensor(contrast),)
        dim = torch.export.Dim("batch", min=1)
        with torch.no_grad():
            exported = torch.export.export(
                explainer.program(x, [1, 2]), given, dynamic_shapes=({0: dim},) * len(given), strict=False
            )
        torch.export.save(exported, tmp_path / "program.pt2")
        loaded = torch.export.load(tmp_path / "program.pt2").module()
        assert distance(loaded(*given)["relevance"][0], explainer(x, [1, 2]).seeds["x"]) <= 1e-9

    @pytest.mark.parametrize("contrast", ["log-odds", [0, 3, 2]])
    def test_compiled(self, contrast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        graphs: list[Any] = []
        monkeypatch.setattr(torch, "compile", lambda graph, **_: graphs.append(graph) or graph)
        model, x = kept_double("plain"), pictures(3).double()
        found = relprop.explain(model, x, target=TARGET, contrast=contrast, compile=True)
        expected = relprop.explain(model, x, target=TARGET, contrast=contrast)
        assert graphs
        assert distance(found.relevance, expected.relevance) <= 1e-9

    def test_files_have_them(self, tmp_path: Any) -> None:
        import h5py

        e = relprop.explain(kept("plain"), pictures(3), target=TARGET, contrast=[0, 3, 2])
        e.save(tmp_path / "e.h5")
        with h5py.File(tmp_path / "e.h5") as file:
            assert file["contrast"][:].tolist() == [0, 3, 2]
            assert file.attrs["contrast"] == "one class per sample"
        assert contrast_words(e) == "against one class each"
        assert contrast_words(e[1], ["a", "b", "c", "d", "e"]) == "against d"


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "contrast", "message"),
        [
            ([0, 3, 2], [1, 3, 2], r"the contrast is the target itself of 2 of 3 samples, which are 1, 2 \(counted"),
            ([0, 3, 3], 3, r"contrast 3 is the target itself of 2 of 3 samples, which are 1, 2"),
            (1, [0, 2], r"contrast has shape \(2,\); give one class, or one for each of 3 samples"),
            (1, [0, 2, CLASSES], r"contrast 5 is out of range: the model has classes 0 to 4"),
            (1, [0, 2, -1], r"contrast -1 is out of range"),
            (lambda output: output[:, 0], [0, 1, 2], r"contrast=None"),
        ],
    )
    def test_classes_that_can_not_be(self, target: Any, contrast: Any, message: str) -> None:
        with pytest.raises(TargetError, match=message):
            relprop.explain(kept("plain"), pictures(3), target=target, contrast=contrast)

    def test_a_predicted_target_that_is_the_contrast(self) -> None:
        model, x = kept("plain"), pictures(3)
        predicted = model(x).argmax(1)
        others = (predicted + torch.tensor([1, 0, 1])) % CLASSES
        with pytest.raises(TargetError, match="1 of 3 samples, which are 1 "):
            relprop.explain(model, x, contrast=others)

    @pytest.mark.parametrize("contrast", ["logodds", 1.5, [1, 2.5, 0], [True, 1, 2], torch.rand(3), (1, "2")])
    def test_what_is_no_contrast(self, contrast: Any) -> None:
        with pytest.raises(
            ValueError, match='contrast must be "rest", "log-odds", "default", None, a class index or one'
        ):
            relprop.Explainer(kept("plain"), contrast=contrast)

    def test_a_rule_set_has_no_other(self) -> None:
        assert replace(rule_registry.get("epsilon"), contrast="log-odds").contrast == "log-odds"
        with pytest.raises(ValueError, match=r'contrast "rest", "log-odds" or None'):
            replace(rule_registry.get("epsilon"), contrast="odds")  # type: ignore[arg-type]


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize("contrast", ["default", "rest", "log-odds", None])
@pytest.mark.parametrize("rules", ["abslrp", "epsilon"])
def test_with_one_output_there_is_no_contrast(contrast: Any, rules: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 1)))
    x = pictures(2)
    e = relprop.explain(model, x, rules=rules, contrast=contrast)
    assert e.contrast is None
    assert torch.equal(e.relevance, relprop.explain(model, x, rules=rules, contrast=None).relevance)
