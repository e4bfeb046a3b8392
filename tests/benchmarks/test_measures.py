"""What the benchmarks count and compare is right; what they time is nobody's test."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import relprop
from benchmarks import conditions as of_conditions
from benchmarks.conditions import Conditions, ConditionsError, Device, Dtype
from benchmarks.records.changes import ComparisonError, Earlier, change
from benchmarks.records.tables import write
from benchmarks.speed.floor import FloorRow, OperationRow, beside_products
from benchmarks.speed.jobs import EXPLAIN, FORWARD, GRADIENT, JOBS, graph_jobs
from benchmarks.speed.memory import MIB, Peak, measure_peak, over
from benchmarks.speed.operations import Spent, profile_operations
from benchmarks.speed.products import alone, multiply_adds, record
from benchmarks.speed.scale import points
from benchmarks.speed.trials import Trial, TrialError, parse
from relprop.models import DeviceError

CPU = Conditions(Device.CPU, Dtype.FLOAT32, 1)


def counted(function: Callable[..., object], *args: Any) -> int:
    return multiply_adds(record(lambda: function(*args)))


def test_multiply_adds_are_those_counted_by_hand() -> None:
    x, image = torch.randn(3, 5), torch.randn(2, 4, 9, 9)
    assert counted(nn.Linear(5, 7), x) == 3 * 5 * 7
    assert counted(torch.matmul, torch.randn(6, 3, 5), torch.randn(6, 5, 7)) == 6 * 3 * 5 * 7
    assert counted(torch.mv, x, x[0]) == 3 * 5
    assert counted(torch.dot, x[0], x[1]) == 5
    # Each of 8 channels looks at 2 of 4, in windows of 3 x 3, at 5 x 5 places of 2 pictures.
    grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
    assert counted(grouped, image) == 2 * 5 * 5 * 8 * 2 * 9
    assert counted(nn.ConvTranspose2d(4, 8, 3, stride=2), image) == 2 * 9 * 9 * 4 * 8 * 9
    assert counted(lambda: torch.relu(image) * 2 + image.sum()) == 0


def test_a_backward_pass_is_counted_and_a_forward_pass_in_inference_mode_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).requires_grad_(False).eval()
    x = torch.randn(2, 3, 8, 8)
    convolution, linear = 2 * 6 * 6 * 8 * 3 * 9, 2 * 288 * 5
    found = {name: multiply_adds(record(JOBS[name](model, x))) for name in (FORWARD, GRADIENT)}
    assert found[FORWARD] == convolution + linear
    assert found[GRADIENT] == 2 * (convolution + linear)


def test_the_relevance_program_is_at_its_floor() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    x = torch.randn(2, 3, 8, 8)
    relprop.explain(model, x)
    convolution, linear = 2 * 6 * 6 * 8 * 3 * 9, 2 * 288 * 5
    # Forward once, then for each of two seeds: one transpose where the input is never negative, two where it may be.
    assert counted(relprop.explain, model, x) == convolution * (1 + 2 * 2) + linear * (1 + 2 * 1)


@pytest.mark.full
def test_products_alone_are_the_same_products() -> None:
    model, x = Trial("test_vit", 2).make(CPU)
    explain = JOBS[EXPLAIN](model, x)
    explain()
    products = record(explain)
    assert len(products) > 50
    replay = alone(products)
    assert record(replay) == products
    assert record(replay) == products, "a second time too"
    assert not any(name.startswith("aten::softmax") for name in profile_operations(replay, CPU))


def test_operands_keep_strides_and_overlaps() -> None:
    a, b = torch.randn(4, 6).T, torch.randn(1, 4).expand(6, 4)
    products = record(lambda: a @ b.T)
    (product,) = products
    assert [operand.stride for operand in product.args] == [(1, 6), (1, 0)]
    assert record(alone(products)) == products
    assert record(alone(record(lambda: torch.randn(0, 3) @ torch.randn(3, 2))))[0].multiply_adds == 0


def test_what_is_left_beside_products() -> None:
    whole = {"mm": Spent(5, 2), "mul": Spent(3, 9), **{f"small {k}": Spent(0.25, 1) for k in range(16)}}
    rows = beside_products(Trial("model", 2), whole, {"mm": Spent(4, 2)})
    assert [row.operation for row in rows[:2]] == ["mul", "mm"]
    assert rows[-1] == OperationRow("model", "all others", 2, 6, 1.5, 0.0, 1.5, 1.5 / 8)
    assert (rows[1].seconds, rows[1].products_seconds, rows[1].rest) == (5, 4, 1)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.calls for row in rows) == 2 + 9 + 16


@pytest.mark.full
def test_peak_memory_counts_what_is_alive_at_once_and_what_stays() -> None:
    kept: list[Tensor] = []

    def job() -> None:
        if not kept:
            kept.append(torch.zeros(MIB // 4))
        torch.zeros(6 * MIB // 4)
        first = torch.zeros(2 * MIB // 4)
        second = first + 1
        del first, second

    peak = measure_peak(job, CPU)
    assert peak.tensors_mib == pytest.approx(1 + 6, abs=0.01)
    assert peak.process_mib > 50
    assert over(Peak(1, 3, 0), Peak(1, 2, 0)) == 1.5
    assert 0 < peak.first_seconds < 60
    assert over(None, peak) is None


@dataclass(frozen=True)
class Row:
    KEYS: ClassVar = ("model", "job")

    model: str
    job: str
    seconds: float
    note: str = ""
    peak: float | None = None


def test_rows_are_matched_by_their_keys_and_numbers_divided(tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("model,job,seconds,gone,note\na,run,2,1,\na,walk,4,1,fine\nb,run,0,1,\n")
    before = Earlier.open(old, [FloorRow, Row])
    assert before.kind is Row
    path = write([Row("a", "walk", 1, "bad"), Row("c", "run", 1), Row("b", "run", 3)], Row, tmp_path / "new.csv")
    with path.open(newline="") as file:
        lines = before.changes(list(csv.DictReader(file)))
    assert lines == [
        ["model", "job", "seconds", "note", ""],
        ["a", "walk", "x0.25", "fine -> bad", ""],
        ["c", "run", "", "", "new"],
        ["b", "run", "0 -> 3", "", ""],
        ["a", "run", "", "", "not measured now"],
    ]
    assert change("", "2.5") == "nothing -> 2.5"
    assert change("3", "3.0") == "x1"


def test_what_cannot_be_compared_with_is_said(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(ComparisonError, match=r"has no columns \(model, job, batch\) or \(model, job\)"):
        Earlier.open(other, [FloorRow, Row])
    with pytest.raises(ComparisonError, match="there is no file"):
        Earlier.open(tmp_path / "none.csv", [Row])


def test_conditions_name_files_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_conditions, "find_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200 (141 GB)")
    version = torch.__version__.partition("+")[0]
    found = Conditions(Device.CUDA, Dtype.FLOAT32, 1, tf32=True)
    assert found.on_machine == f"NVIDIA-H200-141-GB-cuda-float32-tf32-1threads-torch{version}"
    assert CPU.on_machine.endswith(f"-cpu-float32-1threads-torch{version}")
    assert not set(CPU.on_machine) & set(" /()@")

    def flags() -> tuple[object, ...]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_num_threads()

    before = flags()
    with found.in_force():
        assert flags() == (True, True, 1)
    assert flags() == before
    with Conditions(Device.CUDA, Dtype.FLOAT32, 1).in_force():
        assert flags() == (False, False, 1)
    assert flags() == before


def test_conditions_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ConditionsError, match=r"--tf32 .* goes with --device cuda"), _tf32_on_a_processor().in_force():
        pass
    with pytest.raises(ConditionsError, match=r"--cuda-graph .* goes with --device cuda"):
        graph_jobs(CPU)
    if not torch.cuda.is_available():
        with (
            pytest.raises(DeviceError, match="unknown device 'cuda'"),
            Conditions(Device.CUDA, Dtype.FLOAT32, 1).in_force(),
        ):
            pass


def _tf32_on_a_processor() -> Conditions:
    return Conditions(Device.CPU, Dtype.FLOAT32, 1, tf32=True)


def test_trials_have_options_and_another_side() -> None:
    assert parse("name:depth=2,mlp_ratio=1.5,act_layer=relu") == (
        "name", {"depth": 2, "mlp_ratio": 1.5, "act_layer": "relu"},
    )  # fmt: skip
    bfloat16 = Conditions(Device.CPU, Dtype.BFLOAT16, 1)
    model, x = Trial("test_vit:depth=2", 3, side=96).make(bfloat16)
    assert x.shape == (3, 3, 96, 96)
    assert x.dtype == next(model.parameters()).dtype == torch.bfloat16
    assert len(model.get_submodule("blocks")) == 2  # type: ignore[arg-type]
    with torch.no_grad():
        assert model(x).shape == (3, 1000)
    assert Trial("test_resnet", 1, side=64).make(CPU)[1].shape == (1, 3, 64, 64)
    with pytest.raises(TrialError, match="timm can't make 'no_such_model'"):
        Trial("no_such_model", 1).make(CPU)
    with pytest.raises(TrialError, match=r"test_vit takes no pictures of 33 x 33 pixels: .*divisible by patch size"):
        Trial("test_vit", 1, side=33).make(CPU)
    with pytest.raises(TrialError, match="'depth' is not OPTION=VALUE"):
        Trial("test_vit:depth", 1).make(CPU)


def test_one_thing_is_varied_at_a_time() -> None:
    listed = points(["a", "b"], 4, [1, 8], [64], ["deep"])
    assert [(point.axis, point.trial.model, point.trial.batch, point.trial.side) for point in listed] == [
        ("batch", "a", 1, None),
        ("batch", "a", 8, None),
        ("batch", "b", 1, None),
        ("batch", "b", 8, None),
        ("side", "a", 4, 64),
        ("side", "b", 4, 64),
        ("depth", "deep", 4, None),
    ]
