"""A results file says which version of a rule set made its maps, and mixes no two of them under one name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest

import relprop
from relprop.evaluation.methods import relprop_rules
from relprop.store import ConfigurationError
from tests.helpers.evaluations import run


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file from before rule sets had versions: neither these nor newer parameters are in it."""
    described = relprop_rules.describe_rules

    def without_version(rules: Any) -> dict[str, Any]:
        found = described(rules)
        del found["rule_set_version"]
        found["parameters"].pop("signed", None)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(relprop_rules, "describe_rules", without_version)
        run(tmp_path / "run.h5", ["abslrp", "epsilon"])
    return tmp_path / "run.h5"


def test_a_method_of_another_version_is_not_resumed(older: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        run(older, ["abslrp", "epsilon"], resume=True)
    for words in ("version 1 of the rule set 'abslrp'", "this is version 2", "under another name"):
        assert words in str(caught.value)


def test_other_methods_are_resumed_and_the_new_version_goes_under_another_name(older: Path) -> None:
    assert run(older, ["epsilon"], resume=True).complete
    assert run(older, {"abslrp 2": "abslrp"}, resume=True).complete
    with relprop.Results(older) as results:
        assert set(results.methods) == {"abslrp", "epsilon", "abslrp 2"}


def test_the_version_is_in_the_file(tmp_path: Path) -> None:
    run(tmp_path / "run.h5", ["abslrp"])
    with h5py.File(tmp_path / "run.h5") as file:
        config = json.loads(file["methods/abslrp"].attrs["config"])
    assert (config["rules"], config["rule_set_version"], config["parameters"]) == (
        "abslrp",
        2,
        {"delta": 0.01, "signed": True},
    )
