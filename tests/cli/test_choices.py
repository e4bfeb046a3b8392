"""What people write for --rules and --target."""

import pytest
import torch
from torch import nn

from relprop.assign.rule_names import ParameterError, choose_rules
from relprop.cli.app import one_line
from relprop.cli.choices import Choice, choose_target
from relprop.errors import MissingRuleError, TargetError
from relprop.models import Classifier

LABELS = ("tench", "Goldfish", "crane", "great white shark", "crane")


@pytest.mark.parametrize(
    ("texts", "choice"),
    [
        ([], Choice()),
        (["top3"], Choice(top=3)),
        (["top1"], Choice()),
        (["4"], Choice((4,))),
        (["0"], Choice((0,))),
        (["goldfish"], Choice((1,))),
        (["Great White Shark"], Choice((3,))),
        (["goldfish, 0", "3", "0"], Choice((1, 0, 3))),
        (["cat, domestic"], Choice((5,))),
        (["cat, domestic", "tench"], Choice((5, 0))),
    ],
)
def test_targets_by_name_number_and_rank(texts, choice):
    assert choose_target(texts, (*LABELS, "Cat, domestic")) == choice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "classes 0 to 4"),
        ("-1", "classes 0 to 4"),
        ("top6", "N is from 1 to 5"),
        ("top0", "N is from 1 to 5"),
        ("crane", "classes 2 and 4 have that name; give the number"),
        ("goldfinch", "near names: Goldfish"),
        ("", "no class has that name"),
        ("tench,goldfinch", "--target goldfinch: no class has that name; near names: Goldfish"),
        ("top2,tench", "name classes, or top2 alone"),
    ],
)
def test_a_target_that_is_none_says_so(text, message):
    with pytest.raises(TargetError, match=message):
        choose_target([text], LABELS)


def test_rules_take_parameters():
    assert choose_rules("abslrp").parameters == {"delta": 0.01, "signed": True}
    assert choose_rules("abslrp:delta=0.5,signed=false").parameters == {"delta": 0.5, "signed": False}
    assert choose_rules("abslrp:").parameters == {"delta": 0.01, "signed": True}


def test_values_per_channel_and_bounds_of_the_normalisation():
    assert choose_rules("z-box:low=-1,high=1/2/3").parameters["high"] == (1, 2, 3)
    classifier = Classifier("c", nn.Identity(), ("a",), torch.as_tensor, (0.5, 0.4, 0.2), (0.5, 0.2, 0.1), "")
    parameters = choose_rules("z-box:high=9", classifier.mean, classifier.std).parameters
    assert parameters["low"] == pytest.approx((-1, -2, -2))
    assert parameters["high"] == 9
    assert choose_rules("z-box", classifier.mean, classifier.std).parameters["high"] == pytest.approx((1, 3, 8))
    assert choose_rules("abslrp", classifier.mean, classifier.std).parameters == {"delta": 0.01, "signed": True}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("abslpr", MissingRuleError, "near names: abslrp"),
        ("abslrp:gamma=1", ParameterError, r"no parameter \['gamma'\]; it accepts: delta"),
        ("abslrp:delta", ParameterError, "'delta' is not PARAM=NUMBER"),
        ("abslrp:delta=much", ParameterError, "'delta=much' is not PARAM=NUMBER"),
        ("abslrp:delta=nan", ParameterError, "'delta=nan' is not finite"),
        ("abslrp:delta=1,delta=2", ParameterError, "'delta=2' .* names its parameter again"),
        ("alpha-beta:alpha=3", ParameterError, "alpha - beta must be 1"),
        ("epsilon-gamma-box:low=1/x", ParameterError, "'low=1/x' is not PARAM=NUMBER"),
    ],
)
def test_rules_that_are_none_say_so(text, kind, message):
    with pytest.raises(kind, match=message):
        choose_rules(text)


def test_messages_of_several_lines_become_one():
    assert one_line("two operations have no rule:\n  aten.a\n  aten.b\n\nregister them") == (
        "two operations have no rule: aten.a; aten.b; register them"
    )
    assert one_line("") == ""
