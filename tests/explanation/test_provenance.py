"""What a map was made by is recorded with it."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import relprop
import rule_registry
from relprop.explanation.provenance import weights_sha256
from tests.helpers.models import Plain, pictures, seeded


def recorded(path: Path) -> dict[str, object]:
    if path.suffix == ".npz":
        return dict(json.loads(str(np.load(path)["attributes"])))
    with h5py.File(path) as file:
        return dict(file.attrs)


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_files_record_rule_set_versions_and_weights(tmp_path: Path, kind: str) -> None:
    model = seeded(Plain)
    path = tmp_path / f"maps.{kind}"
    relprop.explain(model, pictures(2), rules=rule_registry.get("abslrp", delta=0.5)).save(path)
    found = recorded(path)
    rule_set = json.loads(str(found["rule_set"]))
    assert (rule_set["rules"], rule_set["rule_set_version"]) == ("abslrp", 2)
    assert rule_set["parameters"] == {"delta": 0.5, "signed": True}
    assert json.loads(str(found["weights_sha256"])) == weights_sha256(model)
    assert {"relprop", "torch", "python"} <= json.loads(str(found["versions"])).keys()


def test_the_hash_is_that_of_the_weights_that_made_the_map() -> None:
    model = seeded(Plain)
    e = relprop.explain(model, pictures(2))
    before = weights_sha256(model)
    assert e.provenance is not None
    kept = pickle.loads(pickle.dumps(e))
    with torch.no_grad():
        model.head[2].weight.add_(1.0)
    assert e.provenance.as_dict()["weights_sha256"] is None, "it can't be told any more"
    assert kept.provenance.as_dict()["weights_sha256"] == before
    again = relprop.explain(model, pictures(2))
    assert again.provenance is not None
    assert again.provenance.as_dict()["weights_sha256"] == weights_sha256(model) != before


def test_a_map_does_not_keep_its_model() -> None:
    model = copy.deepcopy(seeded(Plain))
    e = relprop.explain(model, pictures(2))
    del model
    assert e.provenance is not None
    assert e.provenance.as_dict()["weights_sha256"] in (None, weights_sha256(seeded(Plain)))
