"""Other libraries are judged by what they promise: each kind of verdict, on models and peers of a few lines."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.peers import PEERS, Peer, judge, measure_peers
from benchmarks.peers.adapters import Method
from benchmarks.peers.subject import plain, without_biases
from benchmarks.peers.without_rules import passes_gradient, passes_relevance, without_rules
from benchmarks.zoo.entries import Subject
from relprop.extras import MissingExtraError
from tests.helpers.models import Lambda, seeded


def pictures() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def sequential() -> nn.Module:
    """Nothing but modules."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(96, 16), nn.ReLU(inplace=True), nn.Linear(16, 5),
    )  # fmt: skip


def functional() -> nn.Module:
    """A residual sum between modules, which hooks on modules do not see."""
    return Lambda(
        lambda self, x: self.head((self.stem(x) + self.act(self.branch(self.stem(x)))).flatten(1)),
        stem=nn.Conv2d(3, 4, 3),
        branch=nn.Conv2d(4, 4, 3, padding=1),
        act=nn.ReLU(),
        head=nn.Linear(144, 5),
    )


def transformer() -> nn.Module:
    """A norm, fused attention, an activation."""

    def forward(self: Any, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + F.scaled_dot_product_attention(*self.qkv(self.norm(tokens)).chunk(3, -1))
        return self.head(self.act(tokens).mean(1))  # type: ignore[no-any-return]

    return Lambda(
        forward,
        embed=nn.Conv2d(3, 8, 4, 4),
        norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24),
        act=nn.GELU(),
        head=nn.Linear(8, 5),
    )


def needs_all_peers() -> None:
    for peer in PEERS:
        pytest.importorskip(peer.package, reason=f"{peer.name} is not installed (the extra peers)")


VERDICTS = {
    sequential: ("ok", "ok", "ok", "error: LXT has no patch"),
    functional: ("error: RuntimeError: Module Conv2d", "wrong: plain gradient at add (1)", "ok", "error: LXT has no"),
    transformer: ("error: TypeError: Module of type", "wrong: plain gradient at ", "ok", "ok"),
}


@pytest.mark.parametrize("build", VERDICTS, ids=lambda build: build.__name__)
def test_verdicts(build: Callable[[], nn.Module]) -> None:
    needs_all_peers()
    model = seeded(build)
    before = copy.deepcopy(model.state_dict())
    found = measure_peers(Subject(model, pictures()))
    assert list(found) == ["captum", "zennit", "autoLRP", "LXT"]
    for verdict, expected in zip(found.values(), VERDICTS[build], strict=True):
        assert verdict.startswith(expected), found
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


def fake(method: Callable[[nn.Module], Method], conserves: bool = False, ruleless: tuple[str, ...] = ()) -> Peer:
    return Peer("fake", "torch", method, lambda *_: Counter(ruleless), conserves)


def honest(model: nn.Module) -> Method:
    """Gradient times input, which sums to the output in a piecewise linear model without biases."""

    def explain(x: Tensor, target: Tensor) -> Tensor:
        source = x.clone().requires_grad_()
        output = model(source).gather(1, target[:, None])
        return torch.autograd.grad(output.sum(), source)[0] * x

    return explain


def after(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Method]:
    """Do what is right, and change the result."""

    def method(model: nn.Module) -> Method:
        explain = honest(model)
        return lambda x, target: change(explain(x, target))

    return method


def operated(model: nn.Module) -> Method:
    """Explain a model that is no longer the one that was given."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    return honest(model)


def refuses(model: nn.Module) -> Method:
    raise TypeError("no rule for\n  Conv2d")


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (fake(honest), "ok"),
        (fake(honest, conserves=True), "ok "),
        (fake(after(lambda r: 1.5 * r), conserves=True), "wrong: relevance sums to the output but for 5.0e-01 of it ("),
        (fake(operated), "wrong: its model computes other outputs, off by "),
        (fake(after(lambda r: r * torch.nan)), "wrong: relevance is not finite"),
        (fake(after(torch.zeros_like)), "wrong: relevance is zero"),
        (fake(after(lambda r: r.sum(1))), "wrong: relevance of shape (2, 8, 8) for an input of (2, 3, 8, 8)"),
        (fake(honest, ruleless=("add", "gelu", "add")), "wrong: plain gradient at add (2), gelu (1)"),
        (fake(refuses), "error: TypeError: no rule for Conv2d"),
    ],
)
def test_every_kind_of_failure_is_told(peer: Peer, expected: str) -> None:
    model, x = plain(Subject(seeded(sequential), pictures()))
    verdict = judge(peer, model, without_biases(model, x), x, model(x).detach())
    assert verdict.startswith(expected) if expected.endswith((" ", "(")) else verdict == expected


def test_functions_between_modules_are_found() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.layer(x)) + self.position  # all of it right
        x = x * x.mean(1, keepdim=True) + torch.sigmoid(x * self.scale)
        return self.known(x.reshape(len(x), -1))  # type: ignore[no-any-return]

    model = Lambda(forward, layer=nn.Linear(4, 4), known=Lambda(lambda _, x: x.softmax(-1)))
    model.position, model.scale = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    ruled = {model.layer, model.known}
    found = without_rules(model, torch.randn(2, 4), ruled.__contains__, passes_relevance)
    assert found == {"mul": 2, "mean": 1, "sigmoid": 1, "add": 1}
    found = without_rules(model, torch.randn(2, 4), ruled.__contains__, passes_gradient)
    assert found == {"mul": 1, "sigmoid": 1}
    assert without_rules(model, torch.randn(2, 4), lambda _: False, passes_gradient)["softmax"] == 1


def test_a_subject_becomes_a_function_of_one_tensor() -> None:
    embed, rest = nn.Linear(4, 6), nn.Linear(6, 3)
    model = Lambda(lambda self, x, scale=1.0: {"other": x, "logits": self.rest(self.embed(x)) * scale},
                   embed=embed, rest=rest)  # fmt: skip
    x = torch.randn(2, 4)
    wide, source = plain(Subject(model, x, {"scale": 2.0}, {"output": "logits"}))
    torch.testing.assert_close(wide(source).float(), 2 * rest(embed(x)))
    inside, source = plain(Subject(model, x, {}, {"output": "logits", "at": "embed"}))
    torch.testing.assert_close(source.float(), embed(x))
    torch.testing.assert_close(inside(2 * source).float(), rest(2 * embed(x)))
    scalar, source = plain(Subject(model, x, {}, {"target": lambda output: output["logits"].sum(1)}))
    torch.testing.assert_close(scalar(source).float(), rest(embed(x)).sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("constant", "added"),
    [
        (lambda self, x: x, False),
        (lambda self, x: x + self.pos_embed, False),  # zero in the copy, as biases are
        (lambda self, x: torch.cat([self.cls_token.expand(len(x), -1), x], 1)[:, :4], True),
        (lambda self, x: x + self.cls_token.sum(), True),
        (lambda self, x: F.relu6(x + 3), True),
        (lambda self, x: F.scaled_dot_product_attention(x, x, x, x.new_ones(len(x), len(x))), True),
        (lambda self, x: torch.add(x * self.cls_token.sum(), x, alpha=2), False),
    ],
)
def test_biases_are_zero_where_nothing_else_is_added(constant: Callable[[Any, Tensor], Tensor], added: bool) -> None:
    model = Lambda(lambda self, x: self.head(constant(self, x)), head=nn.Linear(4, 3))
    model.pos_embed, model.cls_token = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.ones(1, 1))
    whole, x = plain(Subject(model, torch.randn(2, 4)))
    unbiased = without_biases(whole, x)
    assert (unbiased is None) == added
    if unbiased is not None:
        assert not unbiased(torch.zeros_like(x)).any()
    assert model.head.bias.any()
    assert model.pos_embed.all()


def test_a_model_of_several_inputs_is_nothing_peers_explain() -> None:
    needs_all_peers()
    subject = Subject(Lambda(lambda _, a, b: a + b), (torch.ones(2, 3), torch.ones(2, 3)))
    assert set(measure_peers(subject).values()) == {
        "error: in float64: the model has not one floating-point input, and peers explain one"
    }


def test_a_missing_peer_names_the_extra() -> None:
    missing = Peer("Fairy", "no_such_package", honest, lambda *_: Counter(), False)
    with pytest.raises(MissingExtraError, match=r'comparing with Fairy needs no_such_package: .*"relprop\[peers\]"'):
        missing.method(nn.Identity())


def test_the_command_line_names_the_extra_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    arguments = ["speed", "--models", "test_resnet", "--peers", "--results", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.output.startswith('benchmarks: comparing with captum needs captum: pip install "relprop[peers]"')
    assert not list(tmp_path.iterdir())
