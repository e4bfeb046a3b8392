"""Models in files of other libraries, as modules: ONNX graphs, and Keras models on its torch backend."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import nn

from relprop.errors import CaptureError, first_line
from relprop.extras import extra


def is_converted(path: str | PathLike[str]) -> bool:
    """Whether a path is that of a model in another library's format, by its suffix."""
    return Path(path).suffix.lower() in _LOADERS


def load_converted(path: str | PathLike[str]) -> tuple[nn.Module, tuple[int | None, ...]]:
    """Load a model in another library's format.

    Returns
    -------
    nn.Module, tuple of int or None
        The model in evaluation mode, and the shape of its first input; None where a size is left open.

    Raises
    ------
    CaptureError
        If the file is missing, or can't be read or converted.
    MissingExtraError
        If the library that reads it is not installed.
    """
    if not Path(path).is_file():
        raise CaptureError(f"there is no file {fspath(path)}, in the current directory {Path.cwd()}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, on their own insides
        model, shape = _LOADERS[Path(path).suffix.lower()](Path(path))
    return model.eval(), shape


def _load_onnx(path: Path) -> tuple[nn.Module, tuple[int | None, ...]]:
    with extra("onnx", "a model in ONNX"):
        import onnx
        import onnx2torch
    try:
        program = onnx.load(path)
        onnx.checker.check_model(program)
    except Exception as error:  # protobuf's and onnx's own
        raise CaptureError(f"{path} can't be read as an ONNX model: {first_line(error)}") from error
    held = {tensor.name for tensor in program.graph.initializer}
    given = [value for value in program.graph.input if value.name not in held]
    shape = tuple(d.dim_value or None for d in given[0].type.tensor_type.shape.dim) if given else ()
    try:
        return onnx2torch.convert(program), shape
    except NotImplementedError as error:
        raise CaptureError(
            f"{path} has an operation that onnx2torch does not know: {first_line(error)}. Explain the model it was "
            "made from, or export it anew with opset 13"
        ) from error
    except Exception as error:  # whatever its converters raise
        raise CaptureError(f"onnx2torch can't convert {path}: {type(error).__name__}: {first_line(error)}") from error


def _load_keras(path: Path) -> tuple[nn.Module, tuple[int | None, ...]]:
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")  # which Keras reads when it is imported, and only then
    with extra("zoo", "a model in a Keras file"):
        import keras
    backend = keras.backend.backend()
    if backend != "torch":
        raise CaptureError(
            f"{path} is a Keras model, and Keras runs on {backend} here: set KERAS_BACKEND=torch in the environment "
            "before it is imported"
        )
    try:
        model: Any = keras.saving.load_model(path, compile=False)
    except Exception as error:  # zip, JSON and Keras' own
        raise CaptureError(f"{path} can't be read as a Keras model: {first_line(error)}") from error
    shape = model.input_shape
    return model, tuple(shape) if isinstance(shape, tuple) else tuple(shape[0])


_LOADERS: dict[str, Callable[[Path], tuple[nn.Module, tuple[int | None, ...]]]] = {
    ".onnx": _load_onnx,
    ".keras": _load_keras,
}
