"""Models that were made for something else than PyTorch: ONNX graphs, and Keras on its torch backend."""

from __future__ import annotations

import copy
import os
import random
import sys
import warnings
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torchvision import models

from benchmarks.zoo.entries import Entry, Subject
from benchmarks.zoo.weights import settle
from relprop.errors import RelpropError
from relprop.extras import extra


def entries() -> list[Entry]:
    """Return all of them."""
    return [
        Entry("onnx", "squeezenet1_1", "squeezenet", onnx_squeezenet),
        Entry("keras", "convolutional", "convolutional", keras_convolutional),
    ]


def onnx_squeezenet(samples: int) -> Subject:
    """Write torchvision's SqueezeNet as an ONNX file, and make a module of that with onnx2torch."""
    with extra("zoo", "a model in ONNX"):
        import onnx
        import onnx2torch
    x = torch.randn(samples, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = settle(models.squeezenet1_1(num_classes=10), x)
        file = Path(folder, "squeezenet.onnx")
        batch = {"x": {0: "batch"}, "logits": {0: "batch"}}
        # The newer exporter needs a package more, and onnx2torch knows the operations of opset 13 best.
        torch.onnx.export(
            model, (x,), file, dynamo=False, opset_version=13, input_names=["x"], output_names=["logits"],
            dynamic_axes=batch,
        )  # fmt: skip
        return Subject(onnx2torch.convert(onnx.load(file)).eval(), x)


def keras_convolutional(samples: int) -> Subject:
    """Make a convolutional classifier in Keras; its pictures have their channels last."""
    keras = torch_keras()
    x = torch.randn(samples, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    before = random.getstate()
    random.seed(0)  # where Keras' initialisers draw their seeds
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = settle(_convolutional(keras), x)
    finally:
        random.setstate(before)
    return Subject(model, x, exact=widened(model, x))


def _convolutional(keras: ModuleType) -> Any:
    layers = keras.layers
    pictures: Any = layers.Input((32, 32, 3))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False)(pictures)
    y = layers.BatchNormalization()(y)
    y = layers.MaxPooling2D()(layers.ReLU()(y))
    branch = layers.DepthwiseConv2D(3, padding="same", activation="gelu")(y)
    gate = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(branch))
    y = layers.Concatenate()([layers.Add()([y, layers.Multiply()([branch, gate])]), y])
    y = layers.LayerNormalization()(layers.Flatten()(layers.AveragePooling2D(4)(y)))
    return keras.Model(pictures, layers.Dense(10)(y))


def widened(model: nn.Module, x: Tensor) -> nn.Module:
    """Export a model of one input, ``(B, ...)``, and bring all that it holds or casts to 32 bits to 64.

    Keras casts what layers are given to 32 bits, and on its torch backend norms and means whatever precision they were
    made for, so that `torch.nn.Module.double` does not make such a model exact.
    """
    program = torch.export.export(model, (x,), dynamic_shapes=(({0: Dim.DYNAMIC},),), strict=False)
    module: Any = copy.deepcopy(program.module())  # which holds the parameters of the model itself

    def wider(argument: Any) -> Any:
        return torch.float64 if argument is torch.float32 else argument

    for node in module.graph.nodes:
        node.args = tuple(map(wider, node.args))
        node.kwargs = {name: wider(argument) for name, argument in node.kwargs.items()}
    module.recompile()
    for name, value in list(vars(module).items()):  # what Keras keeps beside parameters and buffers
        if isinstance(value, Tensor):
            setattr(module, name, value.double())
    settled: nn.Module = nn.Module.train(module.double(), False)  # its own method only raises
    return settled


def torch_keras() -> ModuleType:
    """Import Keras with its torch backend, and leave the environment as it was.

    Raises
    ------
    RelpropError
        If this process has Keras with another backend: it can't be changed.
    """
    before = os.environ.get("KERAS_BACKEND")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    try:
        with extra("zoo", "a model in Keras"):
            keras = import_module("keras")
    finally:
        if before is None:
            os.environ.pop("KERAS_BACKEND", None)
        else:
            os.environ["KERAS_BACKEND"] = before
    if keras.backend.backend() != "torch":
        raise RelpropError(
            f"this process has Keras with its {keras.backend.backend()} backend; a model that relprop can explain "
            "needs KERAS_BACKEND=torch in the environment before Keras is imported"
        )
    return keras
