"""Models of every kind, and what they do to gradients and precision while they run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import relprop
from relprop import CaptureError
from tests.helpers.capturing import exported
from tests.helpers.models import CLASSES, Lambda, distance, gradient, make, pictures, seeded


class TestKindsOfModels:
    @pytest.mark.full
    def test_graph_module(self) -> None:
        model, x = make("convolutional"), pictures(3)
        traced = fx.symbolic_trace(model)
        assert distance(relprop.explain(traced, x).relevance, relprop.explain(model, x).relevance) <= 1e-5

    @pytest.mark.full
    def test_compiled_module_is_looked_into(self) -> None:
        model, x = make("plain"), pictures(2)
        e = relprop.explain(torch.compile(model), x, layers=["features.0"])
        assert torch.equal(e.relevance, relprop.explain(model, x).relevance)

    @pytest.mark.full
    def test_exported_program_at_other_batch_sizes(self, tmp_path: Path) -> None:
        model = make("transformer")
        program = exported(model, pictures(2))
        torch.export.save(program, tmp_path / "model.pt2")
        for batch in (1, 3):
            x = pictures(batch)
            expected = relprop.explain(model, x, layers=["blocks.1"])
            for source in (program, tmp_path / "model.pt2", str(tmp_path / "model.pt2")):
                e = relprop.explain(source, x, layers=["blocks.1"])
                assert distance(e.relevance, expected.relevance) <= 1e-5
                assert distance(e.layers["blocks.1"], expected.layers["blocks.1"]) <= 1e-5

    def test_exported_program_with_a_callable_target(self) -> None:
        model, x = make("plain"), pictures(2)
        e = relprop.explain(exported(model, x), x, target=_first_class)
        assert distance(e.relevance, relprop.explain(model, x, target=_first_class).relevance) <= 1e-5

    @pytest.mark.parametrize("size", [1, 2])
    def test_static_exported_program(self, size: int) -> None:
        program = torch.export.export(make("plain"), (pictures(size),), strict=False)
        with pytest.raises(CaptureError, match=rf"fixed at a batch of {size}.*dynamic_shapes"):
            relprop.explain(program, pictures(size))

    def test_missing_and_corrupt_files(self, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match=r"nowhere\.pt2 can't be read"):
            relprop.Explainer(tmp_path / "nowhere.pt2")
        (tmp_path / "broken.pt2").write_bytes(b"PK\x03\x04 not a program")
        with pytest.raises(CaptureError, match=r"broken\.pt2 can't be read as an exported program"):
            relprop.explain(tmp_path / "broken.pt2", pictures(2))

    def test_module_with_an_attribute_that_can_not_be_copied(self) -> None:
        model = make("plain")
        model.lock = threading.Lock()
        assert relprop.explain(model, pictures(2)).relevance.isfinite().all()

    def test_names_that_collide(self) -> None:
        class Colliding(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.a_b = nn.Module(), nn.Module()
                self.a.b_c, self.a_b.c = nn.Linear(8, 8), nn.Linear(8, 8)
                self.seed = nn.Parameter(torch.rand(8))
                self.seeds = nn.Parameter(torch.rand(8))
                self.register_buffer("graph", torch.rand(8))
                self.register_buffer("x", torch.rand(8))
                self.register_buffer("target", torch.rand(8))

            def forward(self, x: Tensor) -> Tensor:
                y = self.a_b.c(self.a.b_c(x)) * self.graph * self.seed * self.seeds
                return y + self.x + self.target

        model, x = seeded(Colliding).double(), torch.randn(2, 8, dtype=torch.float64)
        assert distance(relprop.explain(model, x, rules="gradient").relevance, gradient(model, x)) <= 1e-9


def _first_class(output: Tensor) -> Tensor:
    return output[:, 0]


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize("rules", ["gradient", "abslrp", "epsilon-plus"])
@pytest.mark.parametrize("outer", [torch.float32, torch.float64])
def test_a_model_may_change_its_precision(outer: torch.dtype, rules: str) -> None:
    """Keras computes means in one precision and layers in another; so do careful models by hand."""
    inner = torch.float64 if outer == torch.float32 else torch.float32

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.inner(x.to(inner)).relu()
        return m.head((y.to(outer) + x).unflatten(1, (2, 4)).to(inner).mean(1).to(outer)) + y.mean(1, keepdim=True)

    model = seeded(lambda: Lambda(forward, inner=nn.Linear(8, 8, dtype=inner), head=nn.Linear(4, CLASSES, dtype=outer)))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=outer)
    e = relprop.explain(model, x, rules=rules)
    assert e.relevance.abs().sum() > 0
    if rules == "gradient":
        assert distance(e.relevance, gradient(model, x)) <= 1e-6
    elif rules == "abslrp":
        assert e.conservation.error <= 1e-5


def test_detach_blocks_the_gradient_and_passes_relevance() -> None:
    model = seeded(
        lambda: Lambda(lambda m, x: m.head(x[:, :4] + m.a(x).detach()), a=nn.Linear(8, 4), head=nn.Linear(4, CLASSES))
    ).double()
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = relprop.explain(model, x, rules="gradient").relevance
    assert distance(found, gradient(model, x)) <= 1e-9
    assert not found[:, 4:].any()
    assert relprop.explain(model, x).relevance[:, 4:].any()


@pytest.mark.sweep(every=6)
@pytest.mark.parametrize("switch", [torch.enable_grad, lambda: torch.set_grad_enabled(True)])
@pytest.mark.parametrize("source", ["module", "frozen", "program"])
def test_a_region_that_switches_the_gradient_on_blocks_nothing(switch: Any, source: str) -> None:
    """But a ``detach`` inside one does."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with switch():
            y = m.a(x).relu()
            with torch.enable_grad():
                z = m.b(x).tanh().detach()
        return m.head(y + z)

    model = seeded(lambda: Lambda(forward, a=nn.Linear(8, 4), b=nn.Linear(8, 4), head=nn.Linear(4, CLASSES))).double()
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = gradient(model, x)
    model.requires_grad_(source != "frozen")
    with torch.no_grad():
        explained = exported(nn.Sequential(model), x) if source == "program" else model
    assert expected.abs().max() > 1e-2
    assert distance(relprop.explain(explained, x, rules="gradient").relevance, expected) <= 1e-9


@pytest.mark.full
def test_capture_can_not_see_no_grad() -> None:
    """A known limit: only ``detach`` leaves a trace, so here the program differs from autograd."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            blocked = m.a(x)
        return m.head(x[:, :4] + blocked)

    model = seeded(lambda: Lambda(forward, a=nn.Linear(8, 4), head=nn.Linear(4, CLASSES))).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    found = relprop.explain(model, x, rules="gradient").relevance
    seen = Lambda(lambda m, x: m.head(x[:, :4] + m.a(x)), a=model.a, head=model.head).eval()
    assert distance(found, gradient(seen, x)) <= 1e-9
    assert distance(found, gradient(model, x)) > 1e-2
