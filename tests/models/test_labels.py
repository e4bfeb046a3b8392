"""Names of classes: ImageNet's, and those of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from relprop.models import LabelsError, load_classifier
from relprop.models.labels import imagenet_labels, read_labels


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Weights of a model with three classes."""
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), tmp_path / "three.pth")
    return tmp_path / "three.pth"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.txt", "cat\ndog, hound\nél\n"),
        ("names.txt", "\ufeffcat\r\n dog, hound \r\nél"),
        ("names.json", '["cat", "dog, hound", "él"]'),
        ("names.txt", '["cat", "dog, hound", "él"]'),
        ("names.json", '{"2": "él", "0": "cat", "1": "dog, hound"}'),
        ("imagenet_class_index.json", '{"0": ["n1", "cat"], "1": ["n2", "dog, hound"], "2": ["n3", "él"]}'),
        ("config.json", '{"id2label": {"0": "cat", "1": "dog, hound", "2": "él"}, "label2id": {}}'),
    ],
)
def test_names_are_read(file: str, content: str, tmp_path: Path, three: Path) -> None:
    (tmp_path / file).write_bytes(content.encode())
    assert load_classifier("resnet10t", three, labels=tmp_path / file).labels == ("cat", "dog, hound", "él")


def test_files_may_be_named_by_words(tmp_path: Path, three: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nelk\n")
    classifier = load_classifier("resnet10t", weights=str(three), labels=str(tmp_path / "names.txt"))
    assert classifier.labels == ("cat", "dog", "elk")
    assert classifier.origin == f"file {three}"


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"], {"0": "a", "1": "b"}])
def test_a_wrong_count_names_both(names: object, tmp_path: Path, three: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps(names))
    with pytest.raises(LabelsError, match=rf"l\.json names {len(names)} classes, resnet10t has 3$"):
        load_classifier("resnet10t", three, labels=tmp_path / "l.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"cat\n\ndog", "line 2 is empty"),
        (b"caf\xe9\n", "no text in UTF-8"),
        (b"[]", "it is empty"),
        (b"{}", "it is empty"),
        (b'["cat", 3]', "class 1 has 3 for a name"),
        (b'["cat"', "no JSON"),
        (b'{"0": "cat", "0": "dog"}', "class 0 is named twice"),
        (b'{"0": "cat", "00": "dog"}', "class 0 is named twice"),
        (b'{"0": "cat", "2": "dog"}', "up to 2, but not class 1"),
        (b'{"cat": 0}', "'cat' is no class index"),
        (b'{"-1": "cat"}', "'-1' is no class index"),
        (b'{"id2label": "cat"}', "is no list or object of names"),
        (b"[" * 100_000, "no JSON"),
        (b'{"' + b"9" * 5000 + b'": "cat"}', "is no class index"),
        (b'["cat", ' + b"9" * 5000 + b"]", "no JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_a_line(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(LabelsError, match=reason) as caught:
        read_labels(tmp_path / "names")
    assert str(caught.value).startswith(f"cannot read class names {tmp_path / 'names'}")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="No such file"):
        read_labels(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("classes", "index", "name"),
    [
        (1000, 207, "golden retriever"),
        (11821, 0, "benthos"),
        (21841, 2, "heterotroph"),
        (21842, 207, "golden retriever"),
        (21843, 0, "organism"),
        (11221, 0, "benthos"),
        (512, 7, "class 7"),
    ],
)
def test_the_number_of_classes_tells_the_variant_of_imagenet(classes: int, index: int, name: str) -> None:
    labels = imagenet_labels(classes)
    assert len(labels) == classes
    assert labels[index] == name
