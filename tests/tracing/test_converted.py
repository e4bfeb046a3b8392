"""Models in files of other libraries, against the same model in torch."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import relprop
from relprop.errors import CaptureError
from relprop.extras import MissingExtraError
from relprop.models import ModelError, load_classifier
from tests.helpers.models import distance


def _twin(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()


def _write(path: Path, model: nn.Sequential, operation: str = "Relu") -> Path:
    """Write a model as ONNX by hand, operation by operation."""
    convolution, *_, head = model
    held = {"w": convolution.weight, "b": convolution.bias, "v": head.weight, "c": head.bias}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"]),
        helper.make_node(operation, ["a"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "made by hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", convolution.in_channels, 12, 10])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.asarray(tensor.detach()), name) for name, tensor in held.items()],
    )
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(program, path)
    return path


@pytest.mark.full
def test_an_onnx_file_is_explained_like_its_twin(tmp_path: Path) -> None:
    twin = _twin()
    path, x = _write(tmp_path / "m.onnx", twin), torch.rand(3, 3, 12, 10)
    for rules in ("abslrp", "epsilon-plus-flat", "gradient"):
        found = relprop.explain(path, x, target=2, rules=rules)
        assert distance(found.relevance, relprop.explain(twin, x, target=2, rules=rules).relevance) <= 1e-5
    assert torch.allclose(found.output, twin(x), atol=1e-6)


def test_an_onnx_file_is_a_classifier_by_its_path(tmp_path: Path) -> None:
    twin = _twin()
    classifier = load_classifier(_write(tmp_path / "m.onnx", twin))
    x = classifier.transform(np.full((40, 30, 3), 77, np.uint8))
    assert x.shape == (3, 12, 10)
    assert len(classifier.labels) == 5
    assert torch.allclose(classifier.scores(x[None]), twin(x[None]), atol=1e-6)
    with pytest.raises(ModelError, match=r"takes \(any, 2, 12, 10\), not one batch of RGB pictures"):
        load_classifier(_write(tmp_path / "two.onnx", _twin(2)))


def test_what_is_no_onnx_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"there is no file .*none\.onnx"):
        relprop.explain(tmp_path / "none.onnx", torch.rand(2, 3, 12, 10))
    (tmp_path / "words.onnx").write_text("no model")
    with pytest.raises(CaptureError, match="can't be read as an ONNX model"):
        relprop.explain(tmp_path / "words.onnx", torch.rand(2, 3, 12, 10))
    path = _write(tmp_path / "odd.onnx", _twin(), "ThresholdedRelu")
    with pytest.raises(CaptureError, match=r"an operation that onnx2torch does not know.*ThresholdedRelu"):
        relprop.explain(path, torch.rand(2, 3, 12, 10))


@pytest.mark.parametrize(("name", "package", "install"), [("m.onnx", "onnx", "onnx"), ("m.keras", "keras", "zoo")])
def test_a_package_that_is_missing_is_named(
    name: str, package: str, install: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'needs {package}: pip install "relprop\[{install}\]"'):
        relprop.explain(tmp_path / name, torch.rand(2, 3, 12, 10))


@pytest.mark.full
def test_a_keras_file_is_explained_like_its_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("keras") is None:
        pytest.skip("needs the package keras: pip install 'relprop[zoo]'")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 10, 3)), layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )  # fmt: skip
    model.save(tmp_path / "m.keras")
    twin = _twin()
    with torch.no_grad():
        kernel, bias, dense, offset = (torch.as_tensor(w) for w in model.get_weights())
        twin[0].weight.copy_(kernel.permute(3, 2, 0, 1))
        twin[0].bias.copy_(bias)
        twin[4].weight.copy_(dense.T)
        twin[4].bias.copy_(offset)
    x = torch.rand(2, 3, 12, 10)
    found = relprop.explain(tmp_path / "m.keras", x.permute(0, 2, 3, 1), target=2, rules="gradient")
    expected: Tensor = relprop.explain(twin, x, target=2, rules="gradient").relevance
    assert distance(found.relevance.cpu().permute(0, 3, 1, 2), expected) <= 1e-4
    assert load_classifier(tmp_path / "m.keras").transform(np.zeros((9, 9, 3), np.uint8)).shape == (3, 12, 10)
