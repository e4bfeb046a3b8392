"""Models whose output has the batch somewhere else than along its first axis, or nowhere for a single sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import relprop
from relprop.errors import CaptureError, TargetError
from rule_registry import BatchAxis
from tests.helpers.capturing import operations
from tests.helpers.models import CLASSES, Lambda, distance, gradient, make, pictures, seeded, sequences

aten = torch.ops.aten


def body() -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(3, 8, 3), "head": nn.Linear(8, CLASSES), "head2d": nn.Conv2d(8, CLASSES, 1)}


def pooled(m: Any, x: Tensor) -> Tensor:
    """Features (B, 8, 1, 1)."""
    return F.adaptive_avg_pool2d(m.conv(x).relu(), 1)


SQUEEZES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "at the end": lambda m, x: m.head2d(pooled(m, x)).squeeze(),
    "in place": lambda m, x: m.head2d(pooled(m, x)).squeeze_(),
    "before the head": lambda m, x: m.head(pooled(m, x).squeeze()),
    "before what needs two axes": lambda m, x: m.head(pooled(m, x).squeeze()).log_softmax(1),
    "the batch axis": lambda m, x: m.head(pooled(m, x).flatten(1).squeeze(0)),
    "the batch axis, from behind": lambda m, x: m.head(pooled(m, x).flatten(1).squeeze(-2)),
    "three axes at once": lambda m, x: m.head(pooled(m, x).squeeze((0, 2, 3))),
    "batch second": lambda m, x: m.head(pooled(m, x).flatten(1)[None, :, None].squeeze()),
    "windows": lambda m, x: (
        m.head(m.conv(x).relu().flatten(2).transpose(1, 2).reshape(-1, 1, 8).squeeze()).reshape(-1, 36, CLASSES).mean(1)
    ),
}


@pytest.fixture(params=SQUEEZES.values(), ids=SQUEEZES.keys())
def squeezing(request: pytest.FixtureRequest) -> nn.Module:
    return seeded(lambda: Lambda(request.param, **body())).double()


class TestSqueeze:
    @pytest.mark.full
    def test_a_single_sample_is_explained_as_beside_others(self, squeezing: nn.Module) -> None:
        x = pictures(2).double()
        difference = {"target": lambda o: o[:, 3] - o[:, 0], "rules": "epsilon-plus-flat"}
        for options in ({}, {"target": 4}, {"target": 1, "contrast": None}, difference):
            both = relprop.explain(squeezing, x, layers=["conv"], **options)
            for k in (0, 1):
                alone = relprop.explain(squeezing, x[k : k + 1], layers=["conv"], **options)
                assert len(alone) == 1
                torch.testing.assert_close(alone.output, both.output[k : k + 1])
                torch.testing.assert_close(alone.relevance, both.relevance[k : k + 1])
                torch.testing.assert_close(alone.layers["conv"], both[k].layers["conv"])
                assert alone.conservation.error <= 1e-9
                if "target" not in options:
                    assert alone.target is not None
                    assert alone.target.tolist() == [int(squeezing(x)[k].argmax())]

    @pytest.mark.sweep(every=9)
    def test_a_difference_folds_into_the_last_layer_or_is_refused_as_beside_others(self, squeezing: nn.Module) -> None:
        def difference(o: Tensor) -> Tensor:
            return o[:, 3] - o[:, 0]

        x = pictures(2).double()
        if squeezing.function in (SQUEEZES["before what needs two axes"], SQUEEZES["windows"]):
            for some in (x, x[:1]):  # behind a log-softmax, or a mean over windows, it is no combination of outputs
                with pytest.raises(TargetError, match="something is subtracted"):
                    relprop.explain(squeezing, some, target=difference)
            return
        both = relprop.explain(squeezing, x, target=difference)
        for k in (0, 1):
            alone = relprop.explain(squeezing, x[k : k + 1], target=difference)
            torch.testing.assert_close(alone.relevance, both.relevance[k : k + 1])

    @pytest.mark.sweep(every=5)
    def test_it_is_the_gradient_of_the_target(self, squeezing: nn.Module) -> None:
        x = pictures(2).double()
        target = torch.tensor([2, 4])
        wanted = gradient(squeezing, x, target)
        for k in (0, 1):
            alone = relprop.explain(squeezing, x[k : k + 1], target=int(target[k]), rules="gradient")
            assert distance(alone.relevance, wanted[k : k + 1]) <= 1e-9

    @pytest.mark.sweep(every=9)
    def test_a_batch_whose_last_chunk_is_one_sample(self, squeezing: nn.Module) -> None:
        x = pictures(5).double()
        whole = relprop.explain(squeezing, x, batch_size=5)
        cut = relprop.explain(squeezing, x, batch_size=2)
        torch.testing.assert_close(cut.output, squeezing(x))
        torch.testing.assert_close(cut.relevance, whole.relevance)

    @pytest.mark.sweep(every=18)
    @pytest.mark.parametrize("at", [None, "conv"])
    def test_the_check_of_a_single_sample(self, squeezing: nn.Module, at: str | None) -> None:
        report = relprop.check(squeezing, pictures(1).double(), at=at, target=3)
        assert report.ok, str(report)
        assert report.oracle_error <= 1e-9


@pytest.mark.full
def test_a_model_that_can_not_do_with_one_sample_is_told_by_the_check() -> None:
    model = seeded(lambda: Lambda(SQUEEZES["before what needs two axes"], **body()))
    with pytest.raises(IndexError):
        model(pictures(1))
    report = relprop.check(model, pictures(1))
    assert report.ok, str(report)
    assert any("loses the batch axis of a single sample (IndexError" in note for note in report.notes)
    assert report.as_dict()["gradient_seconds"] is None
    assert relprop.check(model, pictures(2)).notes == ()


def test_only_a_squeeze_of_something_leaves_an_operation() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x[:, None, :, None].squeeze().squeeze(0).squeeze((0, 1)).squeeze(-1)
        return m.head(x) * torch.tensor(2.0).squeeze(-1)

    graph = relprop.capture(seeded(lambda: Lambda(forward, head=nn.Linear(8, CLASSES))), (torch.randn(1, 8),))
    (squeeze,) = [node for node in graph.calls() if node.name.startswith("squeeze")]
    assert (squeeze.target, squeeze.args[1]) == (aten.squeeze.dims, [1, 3])


def transposed(m: Any, x: Tensor) -> Tensor:
    """Logits (classes, B), as CLIP's logits_per_text."""
    return m.head(pooled(m, x).flatten(1)).T


def in_rows(m: Any, x: Tensor) -> Tensor:
    """Logits of every place of every picture, (36 B, classes)."""
    return m.head2d(m.conv(x).relu()).permute(0, 2, 3, 1).reshape(-1, CLASSES)


def by_place(m: Any, x: Tensor) -> Tensor:
    """The same, place by place: (36 B, classes), in another order."""
    return m.head2d(m.conv(x).relu()).permute(2, 3, 0, 1).reshape(-1, CLASSES)


def in_front(m: Any, x: Tensor) -> Tensor:
    """One axis in front, (1, B, classes)."""
    return m.head(pooled(m, x).flatten(1))[None]


TRANSPOSED = r"\(5, B\) with the samples along axis 1"
IN_ROWS = r"\(36 B, 5\) with 36 entries for each sample along axis 0"


class TestElsewhere:
    @pytest.mark.sweep(every=5)
    @pytest.mark.parametrize(
        ("forward", "layout"),
        [
            (transposed, TRANSPOSED),
            (in_rows, IN_ROWS),
            (by_place, IN_ROWS),
            (in_front, r"\(1, B, 5\) with the samples along axis 1"),
            (lambda m, x: transposed(m, x).flatten(), r"\(5 B,\) with 5 entries for each sample along axis 0"),
        ],
        ids=["transposed", "in rows", "by place", "in front", "flattened"],
    )
    def test_the_output_is_refused(self, forward: Any, layout: str) -> None:
        model, x = seeded(lambda: Lambda(forward, **body())), pictures(3)
        whatsoever = [{}, {"target": 1}, {"target": [0, 1, 2]}, {"contrast": None, "rules": "gradient"}, {"at": "conv"}]
        for options in whatsoever:
            with pytest.raises(TargetError, match=rf"output is {layout}, not \(B, classes\).*target.*output=.*wrap"):
                relprop.explain(model, x, **options)
        with pytest.raises(TargetError, match=layout):
            relprop.check(model, x)
        with pytest.raises(TargetError, match=layout):
            relprop.Explainer(model).program(x)

    @pytest.mark.sweep(every=4)
    @pytest.mark.parametrize(
        ("forward", "target", "layout"),
        [
            (transposed, lambda o: o, TRANSPOSED),
            (transposed, lambda o: o.flatten(), r"\(5 B,\) with 5 entries for each sample along axis 0"),
            (transposed, lambda o: o.T.flatten(), r"\(5 B,\) with 5 entries for each sample along axis 0"),
            (in_rows, lambda o: o[:, 2], r"\(36 B,\) with 36 entries for each sample along axis 0"),
        ],
        ids=["transposed", "flattened", "flattened by sample", "in rows"],
    )
    def test_what_a_target_returns_is_refused(self, forward: Any, target: Any, layout: str) -> None:
        model = seeded(lambda: Lambda(forward, **body()))
        with pytest.raises(TargetError, match=rf"one number per sample, \(B,\), not {layout}"):
            relprop.explain(model, pictures(3), target=target)

    @pytest.mark.full
    @pytest.mark.parametrize(
        ("forward", "target"),
        [
            (transposed, lambda o: o[3]),
            (in_rows, lambda o: o.reshape(-1, 36, CLASSES)[:, :, 3].sum(1)),
            (by_place, lambda o: o.reshape(36, -1, CLASSES)[:, :, 3].sum(0)),
            (in_front, lambda o: o[0, :, 3]),
        ],
        ids=["transposed", "in rows", "by place", "in front"],
    )
    def test_a_target_of_one_number_per_sample_is_the_way_out(self, forward: Any, target: Any) -> None:
        model, x = seeded(lambda: Lambda(forward, **body())).double(), pictures(3).double().requires_grad_()
        (wanted,) = torch.autograd.grad(target(model(x)).sum(), x)
        x = x.detach()
        assert distance(relprop.explain(model, x, target=target, rules="gradient").relevance, wanted) <= 1e-9
        e = relprop.explain(model, x, target=target)
        assert len(e) == 3
        assert e.conservation.error <= 1e-9

    @pytest.mark.full
    def test_where_no_axis_holds_the_samples_another_output_is_named(self) -> None:
        def forward(m: Any, x: Tensor) -> dict[str, Tensor]:
            logits = m.head(pooled(m, x).flatten(1))
            return {"logits": logits, "pairs": logits @ logits.T, "loss": logits.mean()}

        model = seeded(lambda: Lambda(forward, **body()))
        for output in ("pairs", "loss"):
            with pytest.raises(
                CaptureError, match=r"no single axis .*carries the batch(.|\n)*name that one with output="
            ):
                relprop.explain(model, pictures(3), output=output)
        assert relprop.explain(model, pictures(3), output="logits").relevance.shape == (3, 3, 8, 8)


class TestBatchAxis:
    def marks(self, model: nn.Module, x: Tensor) -> set[Any]:
        return set(relprop.capture(model, (x,)).batch.values())

    def test_merged_windows(self) -> None:
        marks = self.marks(make("windows"), pictures(3))
        assert BatchAxis(0, 16) in marks
        assert BatchAxis(1, 16) in marks

    @pytest.mark.sweep(every=2)
    @pytest.mark.parametrize("batch_first", [True, False])
    def test_multihead_attention(self, batch_first: bool) -> None:
        marks = self.marks(make("heads" if batch_first else "heads-batch-second"), sequences(3))
        assert BatchAxis(1) in marks  # (L, B, E)
        assert BatchAxis(1, 2) in marks  # (L, B H, E)
        assert BatchAxis(0, 1, 6) in marks  # (L B, E)

    def test_samples_that_alternate_are_told_from_samples_in_a_row(self) -> None:
        head = nn.Linear(8, 3).double()
        repeated = Lambda(lambda m, x: m.head(x.repeat(2, 1)).reshape(2, -1, 3).sum(0), head=head).eval()
        interleaved = Lambda(
            lambda m, x: m.head(torch.stack([x, x], 1).reshape(-1, 8)).reshape(-1, 2, 3).sum(1), head=head
        ).eval()
        x = torch.randn(3, 8, dtype=torch.float64)
        assert BatchAxis(0, 1, 2) in self.marks(repeated, x)
        assert BatchAxis(0, 2) in self.marks(interleaved, x)
        for model in (repeated, interleaved):
            assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9
            assert relprop.explain(model, x).conservation.error <= 1e-9

    @pytest.mark.full
    def test_encoder_layer_is_not_taken_as_one_fused_operation(self) -> None:
        ops = operations(make("encoder"), sequences(2))
        assert not [op for op in ops if "transformer_encoder" in str(op) or "native_multi_head" in str(op)]
        assert aten.matmul.default in ops or aten.bmm.default in ops

    def test_batch_axis_arithmetic(self) -> None:
        mark = BatchAxis(1, 2, 3)
        owner = torch.arange(2).repeat_interleave(2).repeat(3)  # of 12 entries, (3, B=2, 2)
        activation = torch.rand(4, 12, 5)
        by_hand = torch.stack([activation[:, owner == b].sum() for b in range(2)])
        torch.testing.assert_close(mark.sum(activation, lead=0), by_hand)
        torch.testing.assert_close(mark.mean(activation), by_hand / (4 * 6 * 5))
        torch.testing.assert_close(mark.dot(activation[None], activation), mark.sum(activation[None] ** 2))
        assert torch.equal(mark.spread(torch.tensor([0, 1]), 3).flatten(), owner)
        torch.testing.assert_close(mark.rows(activation).sum(1), by_hand)
