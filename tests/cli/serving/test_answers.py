"""What ``relprop app`` answers: the maps of `relprop.explain`, cautions, errors, and lines that make the same."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import relprop
from relprop.assign.rule_names import choose_rules
from relprop.cli.explaining.picture import look
from relprop.cli.serving.answers import KEPT, Question, Respondent
from relprop.errors import RelpropError, TargetError
from relprop.explanation.captions import caution
from relprop.models import PictureError, load_classifier

CAT = Path("cat.jpg")


@pytest.fixture
def respondent(desk):
    return Respondent(load_classifier("own:make"), {"name": "own:make", "trust": False, "weights": None}, Path())


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize(
    "question",
    [
        Question("abslrp"),
        Question("abslrp", target=2, contrast="3", layer="2"),
        Question("epsilon-plus", target=1, contrast="log-odds"),
        Question("z-box", contrast="none"),
    ],
    ids=str,
)
def test_the_lines_make_the_same(respondent, question, tmp_path):
    answer = respondent.answer(CAT, question)
    scope = {}
    exec(answer.lines, scope)
    found = scope["e"]
    classifier = respondent.classifier
    x = look(CAT, classifier).x[None]
    words = {None: {}, "none": {"contrast": None}, "3": {"contrast": 3}}
    against = words.get(question.contrast, {"contrast": question.contrast})
    expected = relprop.explain(
        classifier.model,
        x,
        target=question.target,
        rules=choose_rules(question.rules, classifier.mean, classifier.std),
        layers=[question.layer] if question.layer else (),
        **against,
    )
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-5, atol=1e-9)
    assert int(found.target[0]) == int(expected.target[0])
    assert answer.caution == caution(expected, classifier.labels)
    assert Path("relevance.png").stat().st_size > 1000
    assert cv2.imread(str(answer.png)).std() > 5


def test_two_questions_have_two_pictures(respondent):
    one, other = (respondent.answer(CAT, Question(rules)) for rules in ("abslrp", "gradient"))
    assert np.array_equal(one.seen, other.seen)
    assert not np.array_equal(one.map, other.map)
    assert one.png != other.png
    assert one.png.is_file()


def test_probabilities_are_those_of_the_model(respondent):
    x = look(CAT, respondent.classifier).x[None]
    expected = respondent.classifier.model(x).softmax(1)[0]
    found = respondent.probabilities(CAT)
    assert [p for _, p in found] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)


def test_errors_are_those_of_relprop(respondent):
    Path("broken.jpg").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"cannot read picture broken\.jpg"):
        respondent.answer(Path("broken.jpg"), Question("abslrp"))
    with pytest.raises(TargetError):
        respondent.answer(CAT, Question("abslrp", target=2, contrast="2"))
    with pytest.raises(RelpropError, match="no spatial layout"):
        respondent.answer(CAT, Question("abslrp", layer="6"))


@pytest.mark.full
def test_few_explainers_are_held(respondent):
    for layer in ("0", "1", "2", "3", None):
        respondent.answer(CAT, Question("gradient", layer=layer))
    assert len(respondent._explainers) == KEPT
