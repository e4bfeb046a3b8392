"""`relprop.check`: a verdict that is right for good models and for bad ones."""

import pytest
import torch
from torch import nn

import relprop
import rule_registry
from relprop import Report

aten = torch.ops.aten


class Residual(nn.Module):
    def __init__(self, hide_gradient=False):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 6)
        self.hide_gradient = hide_gradient

    def forward(self, x):
        x = torch.relu(self.first(x))
        if self.hide_gradient:
            with torch.no_grad():
                branch = self.second(x)
        else:
            branch = self.second(x)
        return self.head(torch.relu(x + branch).mean((2, 3)))


class ByHand(nn.Module):
    """A layer norm written out."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.inner(x.flatten(1))
        x = x - x.mean(-1, keepdim=True)
        return self.head(x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def test_a_sound_model_is_computed_correctly(x):
    report = relprop.check(seeded(Residual), x)
    assert report.ok, str(report)
    assert report.oracle_error < 1e-12
    assert report.oracle_dtype == torch.float64
    assert report.conservation.error < 1e-5
    assert report.stability > 0.999
    assert report.operations[("aten.conv2d.default", "convolution")] == 2
    assert str(report).endswith("verdict: computed correctly, as abslrp is defined, and conserved")
    assert "trustworthy" not in str(report), "arithmetic alone does not tell"


def test_columns_stay_aligned_whatever_the_names():
    long = "extension.of_somebody.an_operation_with_a_name_that_is_longer_than_a_column.default"
    counts = {(long, "rule"): 1, ("aten.relu.default", "a rule of many parameters(a=1, b=2, c=3)"): 12}
    header, *rows = str(Report("net", "abslrp", counts, missing="-")).splitlines()[1:4]
    assert len({row.index(rule) for row, rule in zip([header, *rows], ("rule ", "a rule", "rule "), strict=True)}) == 1
    assert len({len(row) for row in (header, *rows)}) == 1


def test_rules_that_do_not_conserve_are_not_called_conserved(x):
    report = relprop.check(seeded(Residual), x, rules="gradient")
    assert report.ok, str(report)
    assert "verdict: computed as gradient is defined" in str(report)


def test_check_leaves_the_model_alone(x):
    model = seeded(Residual)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    relprop.check(model, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_another_default_device_is_left_alone(x):
    model = seeded(Residual)
    with torch.device("meta"):
        assert relprop.check(model, x).ok


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(192, 6)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.head(x.flatten(1)) + self.calls


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_counters_nor_backward_hooks_know_of_a_check(x, dtype):
    model, fired = seeded(Counting).to(dtype), []
    model.head.register_full_backward_hook(lambda *args: fired.append(args))
    model.head.register_full_backward_pre_hook(lambda *args: fired.append(args))
    assert relprop.check(model, x.to(dtype)).oracle_error < 1e-12
    assert relprop.gradient_oracle_error(model, x.to(dtype)) < 1e-12
    assert model.calls == 0
    assert not fired


def test_a_check_of_an_exported_program_leaves_its_buffers_alone(x):
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(seeded(Counting), (x,), dynamic_shapes=({0: batch},))
    assert relprop.check(program, x).oracle_error < 1e-5
    assert program.state_dict["calls"] == 0


def test_a_hidden_no_grad_region_is_found(x):
    report = relprop.check(seeded(lambda: Residual(hide_gradient=True)), x)
    assert not report.ok
    assert "no_grad" in str(report)


def test_a_missing_rule_is_a_verdict_not_an_exception(x):
    class Cosine(nn.Module):
        def forward(self, x):
            return torch.i0(x).flatten(1)[:, :4]

    report = relprop.check(Cosine().eval(), x)
    assert not report.ok
    assert "aten.i0.default" in str(report)


def test_a_norm_written_out_is_reported():
    report = relprop.check(seeded(ByHand), torch.randn(2, 12))
    assert any("normalisation written out by hand" in note for note in report.notes)


def test_a_derived_rule_that_holds_nowhere_is_told(x):
    rules = rule_registry.get("epsilon-plus-flat").derive(
        {rule_registry.select(path="haed"): rule_registry.blocks, aten.relu.default: rule_registry.passes}
    )
    notes = relprop.check(seeded(Residual), x, rules=rules).notes
    assert notes == ("the rule blocks for path haed holds nowhere in this model",)


def test_a_deleting_rule_is_found(x):
    def deleting(call, relevance):
        return relevance * (torch.arange(relevance.shape[-1]) % 2)

    rules = rule_registry.get("abslrp").derive({aten.relu.default: deleting})
    report = relprop.check(seeded(Residual), x, rules=rules)
    assert not report.ok
    assert any("not conserved" in problem for problem in report.problems)


def test_rule_sets_that_conserve_nothing_are_not_blamed_for_it(x):
    report = relprop.check(seeded(Residual), x, rules="gradient")
    assert report.ok, str(report)


def test_every_operation_says_why_it_has_its_rule(x):
    rules = rule_registry.get("epsilon-plus-flat").derive({rule_registry.select(path="head"): rule_registry.blocks})
    report = relprop.check(seeded(Residual), x, rules=rules)
    assert len(report.assignment) == sum(report.operations.values())
    told = {row.name: (row.operation, row.why) for row in report.assignment}
    assert told["first"] == ("aten.conv2d.default", "flat(stabilizer=1e-06), from the override: "
                             "op aten.conv2d.default, layer first")  # fmt: skip
    assert told["second"][1].endswith("from the table: aten.conv2d.default")
    assert told["head"] == ("aten.linear.default", "blocks, from the override: path head")
    lines = report.explain_rules().splitlines()
    assert [line.split()[0] for line in lines] == [row.name for row in report.assignment]
    assert str(report).count("from the override") == 0, "hundreds of lines are printed only when asked for"


@pytest.mark.full
def test_one_output_is_checked_without_contrast(x):
    model = seeded(lambda: nn.Sequential(Residual(), nn.Linear(6, 1)))
    for options in ({}, {"contrast": None}):
        report = relprop.check(model, x, **options)
        assert report.ok, str(report)


def test_check_of_a_part_and_of_one_output():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = nn.Embedding(20, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, tokens):
            return {"logits": self.head(torch.tanh(self.embeddings(tokens)).mean(1)), "tokens": tokens}

    report = relprop.check(seeded(Text), torch.randint(0, 20, (2, 5)), at="embeddings", output="logits")
    assert report.ok, str(report)
