"""Every target and every input is served or refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop import CaptureError, InputError, RelpropError, TargetError
from tests.helpers.models import CLASSES, Lambda, distance, kept, make, pictures


class TestTargets:
    def test_int_list_tensor_and_callable_agree(self) -> None:
        model, x = kept("plain"), pictures(3)
        explainer = relprop.Explainer(model, contrast=None)
        expected = explainer(x, 2)
        assert torch.equal(expected.target, torch.tensor([2, 2, 2]))
        for target in ([2, 2, 2], (2, 2, 2), torch.tensor(2), torch.tensor([2, 2, 2]), torch.tensor([2] * 3).byte()):
            assert torch.equal(explainer(x, target).relevance, expected.relevance)
        assert torch.equal(explainer(x, np.int64(2)).relevance, expected.relevance)
        found = explainer(x, lambda output: output[:, 2])
        torch.testing.assert_close(found.relevance, expected.relevance)

    def test_one_per_sample(self) -> None:
        model, x = kept("plain"), pictures(3)
        found = relprop.explain(model, x, target=[4, 0, 2])
        for k, target in enumerate((4, 0, 2)):
            assert (
                distance(found.relevance[k], relprop.explain(model, x[k : k + 1], target=target).relevance[0]) <= 1e-5
            )

    def test_default_is_the_largest_output(self) -> None:
        model, x = kept("plain"), pictures(3)
        assert torch.equal(relprop.explain(model, x).target, model(x).argmax(1))

    @pytest.mark.parametrize("kind", ["plain", "convolutional", "transformer"])
    def test_masses_with_and_without_contrast(self, kind: str) -> None:
        model, x = kept(kind), pictures(3)
        single = relprop.explain(model, x, contrast=None)
        assert single.conservation.lost == 0
        assert float(single.relevance.min()) >= 0
        torch.testing.assert_close(single.relevance.sum((1, 2, 3)), torch.ones(3))
        contrastive = relprop.explain(model, x)
        assert float(contrastive.relevance.sum((1, 2, 3)).abs().max()) <= 1e-5
        assert torch.equal(contrastive.relevance, relprop.explain(model, x, contrast="rest").relevance)
        seeds = contrastive.seeds["x"]
        torch.testing.assert_close(seeds[0], single.relevance)
        torch.testing.assert_close(seeds[0] - seeds[1], contrastive.relevance)

    def test_rest_is_the_mean_over_the_other_classes(self) -> None:
        model, x = (
            nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES, bias=False)).eval().double(),
            pictures(1, 4).double(),
        )
        found = relprop.explain(model, x, target=1, rules="gradient", contrast="rest").relevance
        weight = model[1].weight.detach()
        others = weight[[0, 2, 3, 4]].mean(0)
        torch.testing.assert_close(found.flatten(), weight[1] - others)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (CLASSES, r"target 5 is out of range: the model has classes 0 to 4"),
            (-1, r"target -1 is out of range"),
            ([0, 1, 7], r"target 7 is out of range"),
            (1.5, r"whole numbers, not torch\.float32"),
            (torch.tensor([1.0, 2.0, 3.0]), r"whole numbers"),
            ([0, 1], r"shape \(2,\); give one class, or one for each of 3 samples"),
            (torch.zeros(3, CLASSES, dtype=torch.long), r"shape \(3, 5\)"),
            (True, r"class index, not a truth value"),
            (lambda output: output, r"one number per sample, \(B,\), not \(B, 5\)"),
            (lambda output: output.sum(), r"one number per sample"),
            ("cat", r"target"),
        ],
        ids=["large", "negative", "one-large", "float", "floats", "short", "matrix", "bool", "whole", "scalar", "str"],
    )
    def test_refused(self, target: Any, message: str) -> None:
        with pytest.raises((TargetError, CaptureError), match=message):
            relprop.explain(kept("plain"), pictures(3), target=target)

    @pytest.mark.sweep(every=3)
    @pytest.mark.parametrize("rules", ["abslrp", "gradient", "epsilon"])
    def test_contrast_with_another_class(self, rules: str) -> None:
        """Why this class and not that one: the difference of both maps, in one pass."""
        model, x = make("plain").double(), pictures(3).double()
        found = relprop.explain(model, x, target=[1, 0, 4], contrast=3, rules=rules)
        ours = relprop.explain(model, x, target=[1, 0, 4], contrast=None, rules=rules).relevance
        theirs = relprop.explain(model, x, target=3, contrast=None, rules=rules).relevance
        torch.testing.assert_close(found.relevance, ours - theirs)
        assert found.contrast == 3
        if rules == "gradient":
            source = x.clone().requires_grad_()
            output = model(source)
            difference = output[range(3), [1, 0, 4]] - output[:, 3]
            torch.testing.assert_close(found.relevance, torch.autograd.grad(difference.sum(), source)[0])

    @pytest.mark.sweep(every=4)
    @pytest.mark.parametrize(
        ("target", "contrast", "message"),
        [
            ([0, 3, 3], 3, r"target itself of 2 of 3 samples, which are 1, 2"),
            (1, CLASSES, r"contrast 5 is out of range: the model has classes 0 to 4"),
            (1, -1, r"contrast -1 is out of range"),
            (lambda output: output[:, 0], 2, r"contrast 2 needs classes"),
        ],
    )
    def test_contrast_refused(self, target: Any, contrast: int, message: str) -> None:
        with pytest.raises(TargetError, match=message):
            relprop.explain(kept("plain"), pictures(3), target=target, contrast=contrast)

    def test_contrast_with_the_predicted_class(self) -> None:
        model, x = kept("plain"), pictures(3)
        with pytest.raises(TargetError, match="target itself of"):
            relprop.explain(model, x, contrast=int(model(x).argmax(1)[0]))
        with pytest.raises(ValueError, match="a class index or one class index per sample, not True"):
            relprop.Explainer(model, contrast=True)

    def test_contrast_with_one_class(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()
        for contrast in ("default", "rest", None):
            e = relprop.explain(model, pictures(2), contrast=contrast)  # there are no others
            assert e.contrast is None
            assert e.relevance.shape == (2, 3, 8, 8)
        with pytest.raises(TargetError, match="contrast 1 is out of range"):
            relprop.explain(model, pictures(2), contrast=1)

    def test_contrast_with_a_callable(self) -> None:
        with pytest.raises(TargetError, match=r"needs classes.*contrast=None"):
            relprop.explain(make("plain"), pictures(2), target=lambda o: o[:, 0], contrast="rest")

    def test_output_that_is_no_row_of_classes(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
        with pytest.raises(TargetError, match=r"output is \(B, 4, 6, 6\), not \(B, classes\)"):
            relprop.explain(model, pictures(2))

    def test_unknown_contrast(self) -> None:
        with pytest.raises(ValueError, match='contrast must be "rest"'):
            relprop.Explainer(make("plain"), contrast="others")  # type: ignore[arg-type]


def _with(value: float) -> Tensor:
    x = pictures(2)
    x[1, 0, 0, 0] = value
    return x


class TestBadInputs:
    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            (_with(float("nan")), InputError, r"^input x has 1 of 384 values that are NaN or infinite"),
            (_with(float("inf")), InputError, r"NaN or infinite"),
            (
                torch.randn(2, 4, 8, 8),
                InputError,
                r"Plain .*fails on an input of \(B, 4, 8, 8\) torch\.float32.*channels",
            ),
            (
                torch.randn(3, 8, 8),
                InputError,
                r"(?s)an input of \(B, 8, 8\) .* the first axis being the batch: .*pass x\[None\]",
            ),
            (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), InputError, r"uint8.*x\.float\(\) / 255"),
            (torch.zeros(2, 3, 8, 8, dtype=torch.long), InputError, r"torch\.int64.*weights are torch\.float32"),
            (torch.zeros(0, 3, 8, 8), InputError, r"is empty: shape \(0, 3, 8, 8\)"),
            (pictures(2).double(), InputError, r"torch\.float64.*its weights are torch\.float32"),
            (np.zeros((2, 3, 8, 8), np.float32), InputError, r"is a ndarray; the model takes tensors"),
            ([], InputError, r"at least one tensor"),
            (torch.tensor(1.0), InputError, r"batch axis"),
        ],
        ids=["nan", "inf", "channels", "no-batch", "uint8", "int64", "empty", "dtype", "numpy", "nothing", "scalar"],
    )
    def test_refused_in_words(self, x: Any, error: Any, message: str) -> None:
        with pytest.raises(error, match=message):
            relprop.explain(kept("plain"), x)

    def test_missing_second_input(self) -> None:
        model = Lambda(lambda m, x, y: m.head(x + y), head=nn.Linear(8, 3)).eval()
        with pytest.raises(
            InputError, match=r"fails on an input of \(B, 8\).*missing 1 required positional argument: 'y'"
        ):
            relprop.explain(model, torch.randn(2, 8))

    def test_model_that_returns_a_tuple(self) -> None:
        model = Lambda(lambda m, x: (m.head(x), x), head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match=r"returns a tuple.*output=.*0 \(2, 3\), 1 \(2, 8\)"):
            relprop.explain(model, torch.randn(2, 8))

    def test_unknown_names(self) -> None:
        model, x = kept("plain"), pictures(2)
        with pytest.raises(CaptureError, match="no module matches 'nowhere'"):
            relprop.explain(model, x, layers=["nowhere"])
        with pytest.raises(CaptureError, match="no module matches 'nowhere'"):
            relprop.explain(model, x, at="nowhere")
        with pytest.raises(LookupError, match="no rule set named 'nowhere'; there are: abslrp"):
            relprop.explain(model, x, rules="nowhere")

    def test_target_that_does_not_depend_on_the_source(self) -> None:
        model = Lambda(lambda m, x: m.head(torch.ones_like(x)), head=nn.Linear(8, 3)).eval()
        with pytest.raises(CaptureError, match="does not depend on the source"):
            relprop.explain(model, torch.randn(2, 8))

    def test_every_error_is_one_of_ours(self) -> None:
        for error in (InputError, TargetError, CaptureError, relprop.MissingRuleError, relprop.RuleError):
            assert issubclass(error, RelpropError)
