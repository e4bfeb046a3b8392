"""Explainers in captum's place: its own methods under the same name for a rule set are the oracle."""

import captum.attr
import numpy as np
import pytest
import torch
from captum.attr import LRP, InputXGradient, LayerGradientXActivation, NoiseTunnel, Saliency, visualization
from captum.metrics import infidelity, sensitivity_max
from torch import nn

import relprop
from relprop.extras import MissingExtraError


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 5)
    ).eval()


@pytest.fixture(scope="module")
def model():
    """One for all tests, so that it is captured once."""
    torch.manual_seed(0)
    return small_net()


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8)


TARGETS = {
    "one": 3,
    "a list": [3, 1],
    "a tensor": torch.tensor([3, 1]),
    "one in a tensor": torch.tensor([3]),
    "one in a tuple": (3,),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_targets_are_those_of_captum(model, x, target):
    ours = relprop.Explainer(model, rules="gradient").as_captum()
    torch.testing.assert_close(ours.attribute(x, target), Saliency(model).attribute(x.clone(), target, abs=False))


class Scores(nn.Module):
    """Scores of each position, from two inputs and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x, y, scale):
        return (self.layer(x) * self.layer(y)).tanh() * scale[:, None, None]


@pytest.mark.full
def test_two_inputs_an_argument_and_a_place_in_the_output():
    model = Scores().eval()
    inputs, scale = (torch.randn(3, 2, 4), torch.randn(3, 2, 4)), torch.tensor([1.0, 2, 3])
    explainer = relprop.Explainer(model, rules="gradient")
    found = explainer.attribute(inputs, target=(1, 3), additional_forward_args=scale)
    expected = InputXGradient(model).attribute(inputs, target=(1, 3), additional_forward_args=scale)
    assert isinstance(found, tuple)
    for ours, theirs, tensor in zip(found, expected, inputs, strict=True):
        torch.testing.assert_close(ours * tensor, theirs)
    other = explainer.attribute(inputs, target=(0, 3), additional_forward_args=(scale,))
    assert not torch.equal(other[0], found[0])


@pytest.mark.full
def test_a_layer_is_attributed_to(model, x):
    ours = relprop.Explainer(model, rules="input-times-gradient", at="1").as_captum().attribute(x, 3)
    theirs = LayerGradientXActivation(model, model[1]).attribute(x, 3)
    torch.testing.assert_close(ours, theirs)


def test_noise_tunnel_draws_around_it_as_around_captums_own(model, x):
    def smoothed(method, **options):
        torch.manual_seed(1)
        return NoiseTunnel(method).attribute(x.clone(), nt_samples=4, nt_type="smoothgrad", target=[3, 1], **options)

    ours = smoothed(relprop.Explainer(model, rules="gradient").as_captum())
    torch.testing.assert_close(ours, smoothed(Saliency(model), abs=False))


def test_metrics_of_captum_take_it(model, x):
    ours = relprop.Explainer(model, rules="input-times-gradient").as_captum()
    theirs = InputXGradient(ours.forward_func)

    def measured(method):
        torch.manual_seed(1)
        sensitive = sensitivity_max(method.attribute, x.clone(), target=3, n_perturb_samples=3)
        attributions = method.attribute(x.clone(), target=3).detach()

        def perturbed(inputs):
            noise = 0.1 * torch.randn_like(inputs)
            return noise, inputs - noise

        return sensitive, infidelity(
            method.forward_func, perturbed, x, attributions, target=3, n_perturb_samples=3
        ).detach()

    for found, expected in zip(measured(ours), measured(theirs), strict=True):
        assert (expected > 0).all()
        torch.testing.assert_close(found, expected)


@pytest.mark.full
def test_the_convergence_delta_is_that_of_captums_lrp():
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).eval(), torch.randn(2, 6)
    ours = relprop.Explainer(model, rules="lrp-0").as_captum()
    found, delta = ours.attribute(x, 3, return_convergence_delta=True)
    expected, missing = LRP(model).attribute(x.clone(), 3, return_convergence_delta=True)
    assert ours.has_convergence_delta()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(delta, missing.detach(), rtol=1e-4, atol=1e-5)
    assert delta.abs().min() > 1e-3, "the biases absorb nothing"


@pytest.mark.full
def test_the_delta_of_a_function_of_the_output(model, x):
    ours = relprop.Explainer(model, rules="lrp-0").as_captum()
    _, delta = ours.attribute(x, lambda output: output[:, 3], return_convergence_delta=True)
    torch.testing.assert_close(delta, ours.attribute(x, 3, return_convergence_delta=True)[1])


def test_conserved_relevance_has_no_delta(model, x):
    ours = relprop.Explainer(model, contrast=None).as_captum()
    _, delta = ours.attribute(x, return_convergence_delta=True)  # of the predicted classes, which have evidence
    torch.testing.assert_close(delta, torch.zeros(2), atol=1e-5, rtol=0)
    tunnel = NoiseTunnel(ours).attribute(x, nt_samples=2, stdevs=0.01, return_convergence_delta=True)
    torch.testing.assert_close(tunnel[1], torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "multiplies", "delta"),
    [
        ({}, True, False),
        ({"contrast": None}, True, True),
        ({"rules": "gradient"}, False, False),
        ({"rules": "input-times-gradient"}, True, False),
        ({"rules": "epsilon"}, True, True),
        ({"rules": "epsilon", "contrast": "rest"}, True, False),
        ({"rules": "abslrp-released", "contrast": None}, True, False),
    ],
)
def test_what_it_says_of_itself(model, options, multiplies, delta):
    ours = relprop.Explainer(model, **options).as_captum()
    assert isinstance(ours, captum.attr.Attribution)
    assert ours.forward_func is model
    assert (ours.multiplies_by_inputs, ours.has_convergence_delta()) == (multiplies, delta)


def test_captum_draws_it(model, x):
    attributions = relprop.Explainer(model).as_captum().attribute(x)
    figure, _ = visualization.visualize_image_attr(
        attributions[0].permute(1, 2, 0).numpy(), None, sign="all", use_pyplot=False
    )
    drawn = figure.axes[0].get_images()[0].get_array()
    assert np.sign(drawn).any()
    assert drawn.shape == (8, 8)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x):
        return {"scores": self.net(x), "features": x}


@pytest.mark.full
def test_the_output_that_is_explained_is_the_forward_function(x):
    ours = relprop.Explainer(TwoOutputs().eval(), output="scores", rules="gradient").as_captum()
    assert ours.forward_func(x).shape == (2, 5)
    torch.testing.assert_close(ours.attribute(x, 3), Saliency(ours.forward_func).attribute(x.clone(), 3, abs=False))


@pytest.mark.full
def test_an_exported_program_has_a_forward_function(model, x):
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    ours = relprop.Explainer(program, rules="gradient").as_captum()
    torch.testing.assert_close(ours.forward_func(x), model(x))
    torch.testing.assert_close(ours.attribute(x, 3), Saliency(model).attribute(x.clone(), 3, abs=False))


def test_what_it_refuses(model, x, monkeypatch):
    explainer = relprop.Explainer(model)
    with pytest.raises(relprop.TargetError, match="a place in the output of each sample"):
        explainer.attribute(x, target=[(1,), (2,)])
    with pytest.raises(relprop.InputError, match="input 1 is a float"):
        explainer.attribute((x, 1.0))
    with pytest.raises(relprop.RelpropError, match="explain with contrast=None"):
        explainer.as_captum().attribute(x, return_convergence_delta=True)
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    monkeypatch.delitem(__import__("sys").modules, "relprop.explanation.captum", raising=False)
    with pytest.raises(MissingExtraError, match=r"as_captum needs captum: pip install \"relprop\[methods\]\""):
        explainer.as_captum()


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x, mask):
        return self.layer(x * mask)


@pytest.mark.full
def test_an_input_without_relevance_is_named():
    explainer = relprop.Explainer(Gated().eval(), rules="gradient")
    x, mask = torch.randn(2, 4), torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(relprop.InputError, match=r"input 1, 'mask', has no relevance.*additional_forward_args"):
        explainer.attribute((x, mask), 1)
    assert explainer.attribute(x, 1, mask).shape == (2, 4)


@pytest.mark.full
def test_metrics_of_quantus_ask_it(model, x):
    quantus = pytest.importorskip("quantus", reason="pip install quantus")
    ours = relprop.Explainer(model, rules="gradient").as_captum()

    def explained(model, inputs, targets, **_):
        return ours.attribute(torch.as_tensor(inputs), torch.as_tensor(targets)).numpy()

    def measured(explain):
        np.random.seed(1)
        metric = quantus.MaxSensitivity(nr_samples=3, disable_warnings=True)
        return metric(model=model, x_batch=x.numpy(), y_batch=np.array([3, 1]), explain_func=explain, device="cpu")

    def captums(model, inputs, targets, **_):
        maps = Saliency(model).attribute(torch.as_tensor(inputs), torch.as_tensor(targets), abs=False)
        return maps.detach().numpy()

    found = measured(explained)
    np.testing.assert_allclose(found, measured(captums), rtol=1e-4)
    assert min(found) > 0
