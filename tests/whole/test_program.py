"""Programs stand alone: they run, export and reload without the model's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import relprop
from relprop import RelpropError
from tests.helpers import models
from tests.helpers.models import kept, make, pictures

LOAD = """
import sys, torch
loaded = torch.export.load(sys.argv[1]).module()
kept = torch.load(sys.argv[2])
for x, relevance in kept:
    found = loaded(x)["relevance"][0]
    error = float((found - relevance).abs().max() / relevance.abs().max())
    assert error <= 1e-5, error
assert "relprop" not in sys.modules
print("same maps")
"""


class TestProgram:
    def test_is_a_readable_graph_module(self) -> None:
        program = relprop.Explainer(kept("transformer")).program(pictures(2))
        assert isinstance(program, fx.GraphModule)
        text = program.print_readable(print_output=False)
        for name in ("relevance_blocks_0_mlp_1", "relevance_blocks_1_qkv", "relevance_patches", "relevance_x"):
            assert name in text, name

    def test_runs_alone_and_holds_no_tape(self) -> None:
        model, x = kept("convolutional"), pictures(2)
        explainer = relprop.Explainer(model)
        with torch.no_grad():
            result = explainer.program(x)(x)
        assert not result["relevance"][0].requires_grad
        seeds = explainer(x).seeds["x"]
        torch.testing.assert_close(result["relevance"][0], seeds)
        taped = explainer.program(x)(x)
        assert all(value.grad_fn is None for value in (taped["output"], *taped["relevance"]))

    @pytest.mark.full
    @pytest.mark.parametrize("kind", ["plain", "convolutional", "transformer", "windows", "heads"])
    def test_exports_and_reloads_in_a_fresh_process(self, kind: str, tmp_path: Path) -> None:
        model, inputs = kept(kind), models.KINDS[kind][1]
        explainer = relprop.Explainer(model)
        program = explainer.program(inputs(2))
        with torch.no_grad():
            exported = torch.export.export(
                program, (inputs(3),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
            )
        torch.export.save(exported, tmp_path / "program.pt2")
        maps = [(inputs(n, seed=n), explainer(inputs(n, seed=n)).seeds["x"]) for n in (1, 4)]  # type: ignore[call-arg]
        torch.save(maps, tmp_path / "maps.pt")
        command = [sys.executable, "-c", LOAD, str(tmp_path / "program.pt2"), str(tmp_path / "maps.pt")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        assert "same maps" in done.stdout

    @pytest.mark.parametrize("move", [lambda p: p.to("meta"), lambda p: p.half(), lambda p: p.double()])
    def test_refuses_to_move_the_models_parameters(self, move: Any) -> None:
        model = make("plain")
        program = relprop.Explainer(model).program(pictures(2))
        with pytest.raises(RelpropError, match="shares its parameters with the model"):
            move(program)
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_shares_the_models_parameters(self) -> None:
        model = make("plain")
        program = relprop.Explainer(model).program(pictures(2))
        ours = {id(p) for p in model.parameters()}
        assert {id(p) for p in program.parameters()} == ours
