"""Models from elsewhere: one of each kind is captured, covered by rules, computed right and conserved."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

import relprop
import rule_registry
from benchmarks.zoo import converted, ecosystem
from benchmarks.zoo.entries import Entry, Subject
from relprop.errors import RelpropError, TargetError
from relprop.extras import MissingExtraError
from relprop.tracing.inputs import check_inputs
from relprop.verification.oracle import gradient_oracle

ENTRIES = {f"{entry.source}/{entry.name}": entry for entry in ecosystem.entries()}
PACKAGES = {"huggingface": ["transformers"], "onnx": ["onnx", "onnx2torch"], "keras": ["keras"]}
KINDS = [
    "huggingface/ViTForImageClassification",
    "huggingface/CLIPModel similarity",
    "huggingface/BertForSequenceClassification",
    "onnx/squeezenet1_1",
    "keras/convolutional",
]
SOURCES = {"CLIPModel similarity": {"pixel_values"}, "BertForSequenceClassification": {"bert_embeddings_LayerNorm"}}


def build(key: str) -> tuple[Entry, Subject]:
    entry = ENTRIES[key]
    for package in PACKAGES.get(entry.source, ()):
        if find_spec(package) is None:  # not importorskip: Keras must be imported with its torch backend
            pytest.skip(f"{key} needs the package {package}: pip install 'relprop[zoo]'")
    return entry, entry.build(2)


def check(key: str) -> None:
    entry, subject = build(key)
    e = relprop.explain(subject.model, subject.inputs, kwargs=subject.kwargs, **subject.options)
    assert set(e.relevances) == SOURCES.get(entry.name, {"x"})
    for relevance in e.relevances.values():
        assert relevance.isfinite().all()
        assert relevance.abs().flatten(1).sum(1).min() > 0
    # Suspects are no matter of the kind of model: of random weights' attention logits most may lie below zero, and then
    # the sum with their mask hands on little before rescaling.
    assert e.conservation.error <= 1e-5

    told = {name: subject.options.get(name) for name in ("target", "at", "output")}
    inputs = check_inputs(subject.inputs, subject.kwargs)
    error, dtype = gradient_oracle(subject.model, inputs, rules=rule_registry.get("abslrp"), **told)
    # Keras takes its inputs, means and products to its own precision, whatever that of the weights is.
    limits = (torch.float32, 1e-5) if entry.source == "keras" else (torch.float64, 1e-8)
    assert (dtype, error <= limits[1]) == (limits[0], True), error


@pytest.mark.parametrize("key", KINDS)
@pytest.mark.full
def test_one_of_each_kind(key: str) -> None:
    check(key)


@pytest.mark.full
def test_segmentation_with_a_mask() -> None:
    """Torchvision's own, at 96 pixels."""
    check("torchvision/lraspp_mobilenet_v3_large")


@pytest.mark.full
def test_clip_has_the_pictures_along_the_second_axis_of_what_it_says_of_texts() -> None:
    _, subject = build("huggingface/CLIPModel zero-shot")
    e = relprop.explain(subject.model, subject.inputs, kwargs=subject.kwargs, output="logits_per_image")
    assert e.output.shape == (2, 7)
    with pytest.raises(TargetError, match=r"\(7, B\) with the samples along axis 1.*name another output"):
        relprop.explain(subject.model, subject.inputs, kwargs=subject.kwargs, output="logits_per_text")


@pytest.mark.full
@pytest.mark.parametrize("key", [key for key in ENTRIES if not key.startswith("torchvision/")])
def test_all_from_other_libraries(key: str) -> None:
    check(key)


def test_names_are_unique_and_torchvision_is_whole() -> None:
    from torchvision import models

    assert len(ENTRIES) == len(ecosystem.entries())
    names = {entry.name for entry in ENTRIES.values() if entry.source == "torchvision"}
    heads = {name for name in models.list_models(module=models.detection) if "rcnn" not in name}  # of fixed anchors
    assert names == {*models.list_models(module=models), *models.list_models(module=models.segmentation), *heads}


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"ViTForImageClassification.*zoo"):
        ENTRIES["huggingface/ViTForImageClassification"].build(2)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"ONNX.*zoo"):
        ENTRIES["onnx/squeezenet1_1"].build(2)


def test_keras_with_another_backend_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "tensorflow"))
    monkeypatch.setitem(sys.modules, "keras", other)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(RelpropError, match=r"its tensorflow backend.*KERAS_BACKEND=torch"):
        converted.torch_keras()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
