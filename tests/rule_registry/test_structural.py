"""Moves: each is the transpose of its operation, as autograd has it; constants hand on what falls on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from rule_registry import BatchAxis, Slot
from tests.helpers.matrix_form import FRONT, SEEDS, Applied, apply_rule, bind, function_of, inputs_of, slots
from tests.helpers.models import Lambda, seeded

aten = torch.ops.aten
STRUCTURAL = rule_registry.get("structural").table


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def transposed(
    op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], active: tuple[Slot, ...], relevance: Any
) -> list[Tensor]:
    """What autograd makes of the relevance, seed by seed."""
    arguments = bind(op, args, kwargs)
    inputs = [x.detach().clone().requires_grad_() for x in inputs_of(arguments, active)]
    output = function_of(op, arguments, active)(*inputs)
    parts = list(output) if isinstance(output, tuple | list) else [output]
    arrived = list(relevance) if isinstance(relevance, tuple) else [relevance]
    used = [(part, r) for part, r in zip(parts, arrived, strict=True) if r is not None]
    rows = []
    for k in range(SEEDS):
        outputs, seeds = [part for part, _ in used], [r[k] for _, r in used]
        grads = torch.autograd.grad(outputs, inputs, seeds, retain_graph=True, allow_unused=True)
        rows.append([torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)])
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def compare_with_autograd(
    op: Any, *args: Any, active: list[Any] | None = None, missing: tuple[int, ...] = (), **kwargs: Any
) -> None:
    """Assert that the structural rule of an operation is its transpose, under ``gradient`` and in any rule set."""
    assert op in STRUCTURAL, f"{op} has no rule of its own: the comparison would be of autograd with itself"
    where = slots(active or [op._schema.arguments[0].name])
    output = op(*args, **kwargs)
    torch.manual_seed(1)
    if isinstance(output, tuple | list):
        relevance: Any = tuple(
            None if k in missing else torch.rand(SEEDS, *part.shape, dtype=torch.float64)
            for k, part in enumerate(output)
        )
        mark: Any = (FRONT,) * len(output)
    else:
        relevance, mark = torch.rand(SEEDS, *output.shape, dtype=torch.float64), FRONT
    applied = apply_rule(op, args, kwargs, where, relevance, rules="gradient", output_batch=mark)
    expected = transposed(op, args, kwargs, where, relevance)
    for value, wanted in zip(applied.values, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
    assert applied.record is None, "under gradient nothing is rescaled"


X = (2, 3, 4, 6)

MOVES: dict[str, tuple[Any, ...]] = {
    # operation, shape of the activation, further arguments
    "view": (aten.view.default, X, [2, 12, 6]),
    "view -1": (aten.view.default, X, [2, -1]),
    "reshape": (aten.reshape.default, X, [6, 24]),
    "unsafe view": (aten._unsafe_view.default, X, [2, 3, 24]),
    "flatten": (aten.flatten.using_ints, X, 1),
    "flatten, negative": (aten.flatten.using_ints, X, -3, -2),
    "unflatten": (aten.unflatten.int, X, -1, [2, -1]),
    "squeeze": (aten.squeeze.default, (2, 1, 3, 1)),
    "squeeze dim": (aten.squeeze.dim, (2, 1, 3, 1), -1),
    "squeeze dim of two": (aten.squeeze.dim, (2, 1, 3, 1), 2),
    "squeeze dims": (aten.squeeze.dims, (2, 1, 3, 1), [1, -1]),
    "unsqueeze": (aten.unsqueeze.default, X, 1),
    "unsqueeze, negative": (aten.unsqueeze.default, X, -1),
    "permute": (aten.permute.default, X, [0, 2, 3, 1]),
    "permute, negative": (aten.permute.default, X, [-3, 0, -1, 2]),
    "transpose": (aten.transpose.int, X, 1, 3),
    "transpose, negative": (aten.transpose.int, X, -1, -2),
    "transpose with the batch": (aten.transpose.int, X, 0, -1),
    "t": (aten.t.default, (2, 3)),
    "t of one axis": (aten.t.default, (2,)),
    "T": (aten.numpy_T.default, (2, 3)),
    "expand": (aten.expand.default, (2, 1, 4), [2, 3, 4]),
    "expand, new axes": (aten.expand.default, (2, 1, 4), [5, 2, 3, 4]),
    "expand -1": (aten.expand.default, (2, 1, 4), [-1, 3, -1]),
    "repeat": (aten.repeat.default, (2, 3), [1, 2]),
    "repeat, new axes": (aten.repeat.default, (2, 3), [2, 1, 3]),
    "slice": (aten.slice.Tensor, X, 2, 1, 3),
    "slice, open": (aten.slice.Tensor, X, 1),
    "slice, step": (aten.slice.Tensor, X, 3, 0, 9223372036854775807, 2),
    "slice, step and start": (aten.slice.Tensor, X, -1, 1, 6, 3),
    "slice, negative": (aten.slice.Tensor, X, -2, -3, -1),
    "slice, negative start": (aten.slice.Tensor, X, 3, -2),
    "slice, beyond": (aten.slice.Tensor, X, 3, -100, 100),
    "slice of nothing": (aten.slice.Tensor, X, 3, 4, 2),
    "select": (aten.select.int, X, 1, 2),
    "select, negative": (aten.select.int, X, -1, -2),
    "roll": (aten.roll.default, X, [1, -2], [2, 3]),
    "roll, negative": (aten.roll.default, X, [5], [-1]),
    "roll one axis twice": (aten.roll.default, X, [1, 1], [2, 2]),
    "roll flat": (aten.roll.default, X, [7]),
    "flip": (aten.flip.default, X, [1, -1]),
    "index": (aten.index.Tensor, X, [None, torch.tensor([2, 0, 0])]),
    "index, mask": (aten.index.Tensor, X, [None, None, torch.tensor([True, False, True, True])]),
    "index, pairs": (aten.index.Tensor, X, [None, torch.tensor([0, 2]), None, torch.tensor([1, -1])]),
    "index, table": (aten.index.Tensor, X, [None, None, torch.tensor([[0, 1], [3, 3]])]),
    "index select": (aten.index_select.default, X, -2, torch.tensor([3, 1, 1])),
    "gather": (aten.gather.default, (2, 3, 4), 1, torch.tensor([[[0, 1], [2, 2]], [[1, 1], [0, 2]]])),
    "pixel shuffle": (aten.pixel_shuffle.default, (2, 8, 2, 3), 2),
    "pixel unshuffle": (aten.pixel_unshuffle.default, (2, 2, 4, 6), 2),
    "channel shuffle": (aten.channel_shuffle.default, (2, 6, 2, 2), 3),
    "unfold": (aten.unfold.default, X, 3, 3, 2),
    "unfold, overlapping": (aten.unfold.default, X, -2, 3, 1),
    "tile": (aten.tile.default, (2, 3), [1, 2]),
    "repeat interleave": (aten.repeat_interleave.self_int, X, 2, -2),
    "rot90": (aten.rot90.default, X, 3, [2, -1]),
    "diagonal": (aten.diagonal.default, X, 1, 2, 3),
    "diagonal, below": (aten.diagonal.default, X, -1, -1, 1),
    "lower triangle": (aten.tril.default, X),
    "upper triangle": (aten.triu.default, X, -1),
    "index fill": (aten.index_fill.int_Scalar, X, -2, torch.tensor([0, 2]), 1.5),
    "index fill, tensor": (aten.index_fill.int_Tensor, X, 3, torch.tensor([5]), torch.tensor(2.0).double()),
    "scatter a number": (aten.scatter.value, X, -1, torch.tensor([[[[0, 5]]], [[[2, 1]]]]), 3.0),
    "unpool": (
        aten.max_unpool2d.default, (2, 1, 2, 2), torch.tensor([[[[0, 3], [8, 15]]], [[[5, 2], [9, 11]]]]), [4, 4],
    ),
    "unpool in three dimensions": (
        aten.max_unpool3d.default, (2, 1, 1, 1, 2), torch.tensor([[[[[1, 6]]]], [[[[0, 7]]]]]),
        [2, 2, 2], [2, 2, 2], [0, 0, 0],
    ),
    "pad": (aten.pad.default, X, [1, 2]),
    "pad, value": (aten.pad.default, X, [1, 0, 0, 2], "constant", 3.0),
    "pad, cropping": (aten.pad.default, X, [-1, -2, 0, -1]),
    "pad, both": (aten.pad.default, X, [-1, 2, 1, -1]),
    "pad channels": (aten.pad.default, X, [0, 0, 0, 0, 1, 2]),
    "pad, reflect": (aten.pad.default, X, [2, 1, 1, 3], "reflect"),
    "pad, replicate": (aten.pad.default, X, [2, 1, 1, 3], "replicate"),
    "pad, circular": (aten.pad.default, X, [2, 1, 1, 3], "circular"),
    "pad, reflect in one dimension": (aten.pad.default, (2, 3, 5), [2, 3], "reflect"),
    "constant pad": (aten.constant_pad_nd.default, X, [1, 2, 0, 1], 0.5),
    "patches": (aten.im2col.default, X, [2, 3], [1, 1], [0, 0], [2, 3]),
    "patches, overlapping": (aten.im2col.default, X, [3, 2], [1, 2], [0, 0], [1, 1]),
    "patches, padded": (aten.im2col.default, X, [3, 3], [1, 1], [1, 1], [2, 2]),
    "masked fill": (aten.masked_fill.Scalar, X, randn(4, 6) > 0, -1.0),
    "masked fill, tensor": (aten.masked_fill.Tensor, X, randn(2, 1, 4, 6) > 0, torch.tensor(2.0)),
    "masked fill, stretched": (aten.masked_fill.Scalar, (2, 1, 4), randn(3, 4) > 0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVES.values(), ids=MOVES.keys())
def test_moves_are_transposed(case: tuple[Any, ...]) -> None:
    op, shape, *arguments = case
    compare_with_autograd(op, randn(*shape), *arguments)


SPLITS: dict[str, tuple[Any, ...]] = {
    "split": (aten.split.Tensor, 2, 3),
    "split, uneven": (aten.split.Tensor, 4, -1),
    "split with sizes": (aten.split_with_sizes.default, [1, 3, 2], -1),
    "chunk": (aten.chunk.default, 3, 1),
    "chunk, uneven": (aten.chunk.default, 4, -1),
    "unbind": (aten.unbind.int, 1),
    "unbind, negative": (aten.unbind.int, -1),
}


@pytest.mark.parametrize("missing", [(), (0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("case", SPLITS.values(), ids=SPLITS.keys())
def test_parts_are_joined(case: tuple[Any, ...], missing: tuple[int, ...]) -> None:
    op, *arguments = case
    x = randn(*X)
    if len(op(x, *arguments)) == len(missing):
        missing = missing[1:]
    compare_with_autograd(op, x, *arguments, missing=missing)


@pytest.mark.parametrize("dim", [1, 2, -1])
def test_cat_and_stack_of_activations(dim: int) -> None:
    parts = [randn(2, 3, 4), randn(2, 3, 4), randn(2, 3, 4)]
    every = [Slot("tensors", k) for k in range(3)]
    compare_with_autograd(aten.cat.default, parts, dim, active=every)
    compare_with_autograd(aten.stack.default, parts, dim, active=every)
    compare_with_autograd(aten.cat.default, parts, dim, active=every[1:2])
    compare_with_autograd(aten.stack.default, parts, dim, active=every[::2])


@pytest.mark.parametrize(
    ("left", "right", "condition"),
    [((2, 3, 4), (2, 3, 4), (2, 3, 4)), ((2, 1, 4), (2, 3, 1), (4,)), ((2, 3, 4), (1,), (3, 1))],
)
def test_where(left: tuple[int, ...], right: tuple[int, ...], condition: tuple[int, ...]) -> None:
    mask, a, b = randn(*condition) > 0, randn(*left), randn(*right)
    if len(right) == 3:
        compare_with_autograd(aten.where.self, mask, a, b, active=["self", "other"])
    compare_with_autograd(aten.where.self, mask, a, b, active=["self"])
    compare_with_autograd(aten.where.self, mask, b, a, active=["other"])
    compare_with_autograd(aten.where.ScalarOther, mask, a, 2.0, active=["self"])
    compare_with_autograd(aten.where.ScalarSelf, mask, 2.0, a, active=["other"])


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (aten.alias.default, ()),
        (aten.clone.default, ()),
        (aten.contiguous.default, ()),
        (aten._to_copy.default, ()),
        (aten.to.dtype, (torch.float64,)),
        (aten.dropout.default, (0.5, False)),
        (aten.feature_dropout.default, (0.5, False)),
    ],
    ids=str,
)
def test_copies_pass(op: Any, arguments: tuple[Any, ...]) -> None:
    for rules in ("gradient", "abslrp"):
        relevance = torch.rand(SEEDS, *X, dtype=torch.float64)
        applied = apply_rule(
            op, (randn(*X), *arguments), {}, slots([op._schema.arguments[0].name]), relevance, rules=rules
        )
        assert applied.values[0] is relevance


def test_detach_blocks_the_gradient_alone() -> None:
    assert rule_registry.get("gradient").table[aten.detach.default].kind == "blocks"
    assert rule_registry.get("abslrp").table[aten.detach.default].kind == "passes"


SCATTERS: dict[str, tuple[Any, ...]] = {
    # operation, shape of what is written into (2, 3, 4, 6), where
    "slice": (aten.slice_scatter.default, (2, 1, 4, 6), 1, 1, 2),
    "slice, open": (aten.slice_scatter.default, (2, 3, 4, 4), -1, 2),
    "slice, step": (aten.slice_scatter.default, (2, 3, 2, 6), 2, 0, 9223372036854775807, 2),
    "slice, negative": (aten.slice_scatter.default, (2, 3, 2, 6), -2, -3, -1),
    "select": (aten.select_scatter.default, (2, 3, 6), 2, 1),
    "select, negative": (aten.select_scatter.default, (2, 3, 4), -1, -2),
}


INDEX = torch.tensor([[[0, 2], [1, 0]], [[2, 1], [0, 1]]])

PUTS: dict[str, tuple[Any, ...]] = {
    # operation, what is written into, further arguments but what is written, its shape, arguments behind it
    "scatter": (aten.scatter.src, (2, 3, 4), [1, INDEX], (2, 2, 2), []),
    "scatter of a part": (aten.scatter.src, (2, 3, 4), [-2, INDEX], (2, 2, 2), []),
    "index put": (aten.index_put.default, X, [[None, torch.tensor([2, 0])]], (2, 2, 4, 6), []),
    "index put, stretched": (aten.index_put.default, X, [[None, None, torch.tensor([1, 3])]], (1, 6), [False]),
    "index put, pairs": (
        aten.index_put.default, X, [[None, torch.tensor([0, 2]), None, torch.tensor([1, -1])]], (2, 2, 4), [],
    ),
    "index put, mask": (aten.index_put.default, X, [[None, torch.tensor([True, False, True])]], (2, 2, 4, 6), []),
    "index put, added": (aten.index_put.default, X, [[None, torch.tensor([2, 2])]], (2, 2, 4, 6), [True]),
}  # fmt: skip


@pytest.mark.parametrize("both", [True, False], ids=["both", "one"])
@pytest.mark.parametrize("case", PUTS.values(), ids=PUTS.keys())
def test_writing_at_an_index(case: tuple[Any, ...], both: bool) -> None:
    op, shape, where, written, behind = case
    name = "src" if op == aten.scatter.src else "values"
    before = [randn(*shape), *where]
    for active in [["self", name]] if both else [["self"], [name]]:
        compare_with_autograd(op, *before, randn(*written), *behind, active=active)


def test_scatter_reads_a_part_of_its_source() -> None:
    """Autograd knows no such case: entries beyond the index are not written."""
    x, src, relevance = randn(2, 3, 4), randn(2, 3, 5), torch.rand(SEEDS, 2, 3, 4, dtype=torch.float64)
    found = apply_rule(aten.scatter.src, (x, 1, INDEX, src), {}, slots(["self", "src"]), relevance, rules="gradient")
    assert found.values[1].shape == (SEEDS, 2, 3, 5)
    torch.testing.assert_close(found.values[1][:, :, :2, :2], relevance.gather(2, INDEX.expand(SEEDS, -1, -1, -1)))
    assert not found.values[1][:, :, 2].any()
    assert not found.values[1][..., 2:].any()


@pytest.mark.parametrize("active", [["self", "src"], ["self"], ["src"]], ids=str)
@pytest.mark.parametrize("case", SCATTERS.values(), ids=SCATTERS.keys())
def test_writing_into_a_part(case: tuple[Any, ...], active: list[str]) -> None:
    op, shape, *where = case
    compare_with_autograd(op, randn(*X), randn(*shape), *where, active=active)


def test_every_move_is_tried() -> None:
    """A rule that nobody compares with autograd is not known to be right."""
    tried = {case[0] for case in [*MOVES.values(), *SPLITS.values(), *SCATTERS.values(), *PUTS.values()]}
    tried |= {aten.cat.default, aten.stack.default}
    tried |= {aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf}
    assert {str(op) for op, rule in STRUCTURAL.items() if rule.kind == "rule"} == {str(op) for op in tried}


# What falls on constants


def rescaled(relevance: Tensor, moved: list[Tensor]) -> list[Tensor]:
    """Per seed and sample (in front), the moved relevance brought to the mass that arrived; zero if none moved."""
    arrived = relevance.flatten(2).sum(-1)
    mass = torch.stack([m.flatten(2).sum(-1) for m in moved]).sum(0)
    factor = torch.where(mass > 0, arrived / mass, 0.0)
    return [m * factor.reshape(*factor.shape, *(1,) * (m.ndim - 2)) for m in moved]


CONSTANTS: dict[str, tuple[Any, ...]] = {
    # operation, arguments, its activations
    "cat, one constant": (aten.cat.default, ([randn(2, 1, 4), randn(2, 3, 4)], 1), [Slot("tensors", 1)]),
    "cat, constant between": (
        aten.cat.default, ([randn(2, 3), randn(2, 1), randn(2, 2)], -1), [Slot("tensors", 0), Slot("tensors", 2)],
    ),
    "stack": (aten.stack.default, ([randn(2, 3), randn(2, 3)], 1), [Slot("tensors", 0)]),
    "pad": (aten.pad.default, (randn(2, 3, 4), [1, 2, 0, 1]), ["self"]),
    "patches, padded": (aten.im2col.default, (randn(2, 3, 4, 4), [3, 3], [1, 1], [1, 1], [2, 2]), ["self"]),
    "pad and crop": (aten.pad.default, (randn(2, 3, 4), [-1, 2]), ["self"]),
    "constant pad": (aten.constant_pad_nd.default, (randn(2, 3, 4), [2, 0], 1.0), ["self"]),
    "masked fill": (aten.masked_fill.Scalar, (randn(2, 3, 4), randn(3, 4) > 0, -1.0), ["self"]),
    "triangle": (aten.triu.default, (randn(2, 3, 3), 1), ["self"]),
    "index fill": (aten.index_fill.int_Scalar, (randn(2, 3, 4), -1, torch.tensor([0, 3]), 1.0), ["self"]),
    "index put": (aten.index_put.default, (randn(2, 3), [None, torch.tensor([1])], randn(2, 1)), ["values"]),
    "scatter": (aten.scatter.src, (randn(2, 3, 4), 1, INDEX, randn(2, 2, 2)), ["src"]),
    "unpool": (aten.max_unpool2d.default, (randn(2, 1, 1, 1), torch.tensor([[[[1]]], [[[2]]]]), [2, 2]), ["self"]),
    "where, right": (aten.where.self, (randn(2, 3) > 0, randn(2, 3), randn(3)), ["self"]),
    "where, left": (aten.where.self, (torch.tensor([True, False, True]), randn(3), randn(2, 3)), ["other"]),
    "where, number": (aten.where.ScalarOther, (torch.tensor([True, False, True]), randn(2, 3), 1.0), ["self"]),
    "slice scatter": (aten.slice_scatter.default, (randn(2, 3, 4), randn(2, 2, 4), 1, 1), ["src"]),
    "slice scatter, written": (aten.slice_scatter.default, (randn(2, 3, 4), randn(2, 2, 4), 1, 1), ["self"]),
    "select scatter": (aten.select_scatter.default, (randn(2, 3, 4), randn(2, 4), 1, -1), ["src"]),
    "where, number left": (
        aten.where.ScalarSelf, (torch.tensor([True, False, True]), 1.0, randn(2, 3)), ["other"],
    ),
}  # fmt: skip


def on_constants(case: tuple[Any, ...], rules: str) -> tuple[Tensor, Applied, list[Tensor]]:
    op, args, active = case
    torch.manual_seed(2)
    relevance = torch.rand(SEEDS, *op(*args).shape, dtype=torch.float64)
    applied = apply_rule(op, args, {}, slots(active), relevance, rules=rules)
    return relevance, applied, transposed(op, args, {}, slots(active), relevance)


@pytest.mark.parametrize("case", CONSTANTS.values(), ids=CONSTANTS.keys())
def test_what_falls_on_constants_goes_to_the_activations(case: tuple[Any, ...]) -> None:
    relevance, applied, moved = on_constants(case, "abslrp")
    assert sum(float(m.sum()) for m in moved) < float(relevance.sum()), "nothing falls on a constant in this case"
    for value, wanted in zip(applied.values, rescaled(relevance, moved), strict=True):
        torch.testing.assert_close(value, wanted)
    handed_on = torch.stack([FRONT.sum(value) for value in applied.values]).sum(0)
    torch.testing.assert_close(handed_on + applied.lost, FRONT.sum(relevance))


@pytest.mark.parametrize("case", CONSTANTS.values(), ids=CONSTANTS.keys())
def test_under_gradient_nothing_is_rescaled(case: tuple[Any, ...]) -> None:
    _, applied, moved = on_constants(case, "gradient")
    for value, wanted in zip(applied.values, moved, strict=True):
        torch.testing.assert_close(value, wanted)
    assert applied.record is None


def test_a_part_without_any_entry_may_be_of_one_axis() -> None:
    x, relevance = randn(2, 3), torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    where = slots([Slot("tensors", 1)])
    applied = apply_rule(aten.cat.default, ([torch.empty(0).double(), x], 1), {}, where, relevance)
    torch.testing.assert_close(applied.values[0], relevance)


LOST: dict[str, tuple[Any, ...]] = {
    # operation, arguments, its activations, where relevance lies
    "cat": (aten.cat.default, ([randn(2, 1), randn(2, 2)], 1), [Slot("tensors", 1)], [1, 0, 0]),
    "stack": (aten.stack.default, ([randn(2), randn(2)], 1), [Slot("tensors", 1)], [1, 0]),
    "pad": (aten.pad.default, (randn(2, 2), [1, 0]), ["self"], [1, 0, 0]),
    "masked fill": (
        aten.masked_fill.Scalar, (randn(2, 2), torch.tensor([True, False]), -torch.inf), ["self"], [1, 0],
    ),
    "where": (aten.where.ScalarOther, (torch.tensor([False, True]), randn(2, 2), 1.0), ["self"], [1, 0]),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST.values(), ids=LOST.keys())
def test_mass_that_falls_on_constants_alone_is_lost_and_counted(case: tuple[Any, ...]) -> None:
    op, args, active, row = case
    relevance = torch.tensor(row, dtype=torch.float64).expand(SEEDS, 2, -1).clone()
    relevance[0, 1] = 1  # this sample also has relevance on its activations
    applied = apply_rule(op, args, {}, slots(active), relevance)
    lost = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(applied.lost, lost)
    handed_on = torch.stack([FRONT.sum(value) for value in applied.values]).sum(0)
    torch.testing.assert_close(handed_on, FRONT.sum(relevance) - lost)


def test_masked_logits_receive_nothing() -> None:
    """``masked_fill(-inf)``: no NaN, and nothing under the mask."""
    mask = torch.tensor([[False, True, False]])
    relevance = torch.rand(SEEDS, 2, 3, dtype=torch.float64)
    relevance[..., 1] = 0
    args = (randn(2, 3), mask, -torch.inf)
    applied = apply_rule(aten.masked_fill.Scalar, args, {}, slots(["self"]), relevance)
    torch.testing.assert_close(applied.values[0], relevance)


def test_mass_is_kept_per_sample_wherever_the_batch_lies() -> None:
    """A class token in front of merged windows; samples of very different relevance."""
    x, token = randn(6, 3, 4), randn(6, 1, 4)
    relevance = torch.rand(SEEDS, 6, 4, 4, dtype=torch.float64)
    relevance[:, :3] *= 1e3
    mark = BatchAxis(0, 3)
    where = slots([Slot("tensors", 1)])
    applied = apply_rule(aten.cat.default, ([token, x], 1), {}, where, relevance, input_batch=[mark], output_batch=mark)
    expected = relevance[:, :, 1:].reshape(SEEDS, 2, -1)
    factor = relevance.reshape(SEEDS, 2, -1).sum(-1) / expected.sum(-1)
    torch.testing.assert_close(applied.values[0].reshape(SEEDS, 2, -1), expected * factor.unsqueeze(-1))


@pytest.mark.full
def test_of_other_activations_only_shape_and_type_are_asked_for() -> None:
    def forward(m: Lambda, x: Tensor) -> Tensor:
        y = x.relu().type_as(x)
        return m.head((y.mean(1, keepdim=True).expand_as(x).view_as(y) * y.reshape_as(x)).mean(1))

    def plain(m: Lambda, x: Tensor) -> Tensor:
        y = x.relu()
        return m.head((y.mean(1, keepdim=True).expand(x.shape) * y).mean(1))

    x = randn(2, 5, 4)
    models = [seeded(lambda function=function: Lambda(function, head=nn.Linear(4, 3))) for function in (forward, plain)]
    assert relprop.gradient_oracle_error(models[0].double(), x) <= 1e-12
    one, other = (relprop.explain(model.double(), x).relevance for model in models)
    torch.testing.assert_close(one, other)


@pytest.mark.full
@pytest.mark.parametrize("rules", ["gradient", "abslrp"])
def test_what_returns_an_argument_as_it_is_leaves_no_operation(rules: str) -> None:
    """Branches that are left out are zero, and what writes over everything needs nothing that was there before."""

    def forward(m: Lambda, x: Tensor) -> Tensor:
        y = 0 + m.head(x)
        z = torch.relu(y)
        z[:, :3] = y - 0
        return m.last(z)

    def plain(m: Lambda, x: Tensor) -> Tensor:
        return m.last(m.head(x))

    x, parts = randn(2, 4), {"head": nn.Linear(4, 3), "last": nn.Linear(3, 2)}
    models = [Lambda(function, **parts).double().eval() for function in (forward, plain)]
    one, other = (relprop.Explainer(model, rules=rules) for model in models)
    assert [site.op for site in one.plan(x).sites.values()] == [aten.linear.default] * 2
    assert torch.equal(one(x).relevance, other(x).relevance)


@pytest.mark.parametrize("shown", [0.5, torch.zeros(1)])
def test_adding_something_is_an_operation(shown: float | Tensor) -> None:
    model = Lambda(lambda m, x: m.head(x) + shown, head=nn.Linear(4, 3)).eval()
    operations = [site.op for site in relprop.Explainer(model).plan(torch.randn(2, 4)).sites.values()]
    assert operations == [aten.linear.default, aten.add.Tensor]
