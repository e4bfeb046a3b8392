"""Attribution methods by name and from other libraries: each against what the library itself, or a formula, says."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
import rule_registry
from relprop import gae
from relprop.assign.rule_names import ParameterError
from relprop.errors import MissingRuleError, RelpropError
from relprop.evaluation import (
    AttentionRollout,
    CaptumMethod,
    GradCamMethod,
    MethodError,
    Precomputed,
    ZennitMethod,
    evaluate,
)
from relprop.evaluation.methods import Function, MethodContext, Request, check_name, make_methods, split_names
from relprop.evaluation.methods.adapters.grad_cam import default_layer
from relprop.extras import MissingExtraError
from tests.helpers.models import gradient, kept, pictures, seeded

TARGET = torch.tensor([0, 3, 1])


def tiny_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    options: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    return seeded(lambda: VisionTransformer(num_classes=5, **options))


def network() -> nn.Sequential:
    """What all libraries can explain, with an activation in place."""

    def layers() -> nn.Sequential:
        first = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        return nn.Sequential(*first, nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))

    return seeded(layers)  # type: ignore[return-value]


def state(model: nn.Module) -> Any:
    """Everything of a model that a method could change."""
    hooks = [
        (
            len(m._forward_hooks),
            len(m._forward_pre_hooks),
            len(m._backward_hooks),
            len(m._backward_pre_hooks),
            m.training,
        )
        for m in model.modules()
    ]
    flags = [getattr(m, "inplace", None) for m in model.modules()]
    parameters = [(id(p), p._version, p.requires_grad, p.grad is None, float(p.sum())) for p in model.parameters()]
    return hooks, flags, parameters, [id(m) for m in model.modules()]


ADAPTERS: dict[str, Any] = {
    **{
        f"captum.{name}": lambda model, name=name, options=options: CaptumMethod(model, name, **options)
        for name, options in {
            "IntegratedGradients": {"n_steps": 4},
            "InputXGradient": {},
            "Saliency": {},
            "GuidedBackprop": {},
            "Deconvolution": {},
            "Occlusion": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)},
            "GradientShap": {},
            "DeepLift": {},
            "LayerGradCam": {"layer": "3"},
        }.items()
    },
    **{
        f"grad-cam.{name}": lambda model, name=name: GradCamMethod(model, name)
        for name in ("GradCAM", "GradCAMPlusPlus", "EigenCAM", "LayerCAM", "HiResCAM", "XGradCAM", "ScoreCAM")
    },
    **{
        f"zennit.{name}": lambda model, name=name: ZennitMethod(model, name)
        for name in ("EpsilonPlus", "EpsilonPlusFlat", "GuidedBackprop", "Gradient", "SmoothGrad")
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_give_maps_and_leave_the_model_alone(name: str) -> None:
    model, x = network(), pictures(3)
    expected, before = model(x), state(model)
    maps = Function(ADAPTERS[name](model)).maps(Request(x, TARGET, (0, 1, 2), (0, 0, 0)))
    assert maps.shape in ((3, 3, 8, 8), (3, 1, 8, 8), (3, 8, 8))
    assert maps.isfinite().all()
    assert maps.abs().sum() > 0
    assert state(model) == before
    assert torch.equal(model(x), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["captum.Saliency", "captum.GuidedBackprop", "grad-cam.GradCAM", "zennit.EpsilonPlus"])
def test_adapters_see_weights_that_change(name: str) -> None:
    model, x = network(), pictures(3)
    method = ADAPTERS[name](model)
    before = method(x.clone(), TARGET)
    with torch.no_grad():
        model[3].weight.mul_(torch.linspace(-1, 1, 8).reshape(-1, 1, 1, 1))
    assert not torch.allclose(method(x.clone(), TARGET), before)


def test_captum_against_autograd() -> None:
    model, x = network(), pictures(3)
    expected = gradient(model, x, TARGET)
    torch.testing.assert_close(CaptumMethod(model, "InputXGradient")(x, TARGET), x * expected)
    torch.testing.assert_close(CaptumMethod(model, "Saliency", abs=False)(x, TARGET), expected)
    found = CaptumMethod(model, "IntegratedGradients", n_steps=200)(x, TARGET)
    difference = (model(x) - model(torch.zeros_like(x))).gather(1, TARGET[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2, 3)).float(), difference.detach(), rtol=0.02, atol=0.02)  # completeness


def test_occlusion_slides_a_window_that_fits_the_picture() -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)))
    assert CaptumMethod(model, "Occlusion")(pictures(3, 16), TARGET).shape == (3, 3, 16, 16)


def test_grad_cam_by_hand() -> None:
    """Selvaraju et al. 2017: relu of the activations weighed by the mean gradient, enlarged, between 0 and 1."""
    model, x = network(), pictures(3)
    method = GradCamMethod(model)
    maps = method(x.clone(), TARGET)
    assert method.config["layer"] == "4"
    activation = model[:5](x)
    (slope,) = torch.autograd.grad(model[5:](activation).gather(1, TARGET[:, None]).sum(), activation)
    small = (activation * slope.mean((2, 3), keepdim=True)).sum(1).relu()
    assert maps.shape == (3, 8, 8)
    for found, cam in zip(maps, small, strict=True):
        assert float(found.min()) >= 0
        if cam.max() > cam.min():  # enlarged without new extremes: their places stay
            row, column = divmod(int(cam.argmax()), 2)
            assert float(found[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].max()) == float(found.max())


@pytest.mark.sweep(every=4)
@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer4"), ("squeezenet1_1", "features"), ("mobilenet_v2", "features"), ("vgg11", "features")],
)
def test_default_layers_of_known_models(name: str, layer: str) -> None:
    import torchvision

    model = seeded(lambda: torchvision.models.get_model(name))
    assert default_layer(model, torch.zeros(1, 3, 64, 64)) == layer


def test_default_layer_of_a_vit_is_where_patches_are_still_read() -> None:
    model, x = tiny_vit(), pictures(3, 16)
    method = GradCamMethod(model)
    assert method(x, TARGET).shape == (3, 16, 16)
    assert method.config["layer"] == "blocks.2.norm1"


def test_zennit_under_a_gradient_is_the_gradient() -> None:
    model, x = network(), pictures(3)
    torch.testing.assert_close(ZennitMethod(model, "Gradient")(x.clone(), TARGET), gradient(model, x, TARGET))


class Scaled(nn.Module):
    """A module with parameters of its own beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(())), nn.Conv2d(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def test_zennit_tells_which_layers_get_gradients() -> None:
    def layers() -> nn.Sequential:
        norms = (nn.GroupNorm(2, 6), Scaled(), nn.GroupNorm(2, 6), nn.BatchNorm2d(6), nn.ReLU())
        return nn.Sequential(nn.Conv2d(3, 6, 3), *norms, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

    model = seeded(layers)
    words = "EpsilonPlus has no rule for some modules with parameters of the model: 2 GroupNorm, 1 Scaled. "
    with pytest.warns(relprop.RelpropWarning, match=words) as told:
        method = ZennitMethod(model, "EpsilonPlus")
    assert len(told) == 1
    with warnings.catch_warnings(action="error", category=relprop.RelpropWarning):
        method(pictures(3), TARGET)
        ZennitMethod(model, "GuidedBackprop")
        ZennitMethod(model, "Gradient")
        ZennitMethod(network(), "EpsilonPlusFlat")


def test_zennit_composites_conserve_the_output() -> None:
    model, x = network(), pictures(3)
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.zeros_(layer.bias)
    from zennit.composites import EpsilonPlus

    expected = model(x).gather(1, TARGET[:, None])[:, 0]
    for composite in ("EpsilonPlus", EpsilonPlus()):
        found = ZennitMethod(model, composite)(x.clone(), TARGET)
        torch.testing.assert_close(found.sum((1, 2, 3)), expected.detach(), rtol=1e-3, atol=1e-4)


def test_attention_rollout_by_hand() -> None:
    """The product of (A + 1) / 2 over blocks, A from queries and keys computed here."""
    model, x = tiny_vit(), pictures(2, 16)
    before = state(model)
    found = AttentionRollout(model)(x, TARGET[:2])
    assert state(model) == before
    tokens = model._pos_embed(model.patch_embed(x))  # type: ignore[operator]
    flow = torch.eye(17)
    for block in model.blocks:  # type: ignore[union-attr]
        q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(2, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1).mean(1)
        flow = (0.5 * attention + 0.5 * torch.eye(17)) @ flow
        tokens = block(tokens)
    grid = flow[:, 0, 1:].reshape(2, 1, 4, 4)
    expected = nn.functional.interpolate(grid, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)


def test_attention_rollout_needs_a_vit() -> None:
    with pytest.raises(MethodError, match="needs a vision transformer as timm builds them, not a Sequential"):
        AttentionRollout(network())


# Names


def test_names_are_split_at_commas_that_no_option_follows() -> None:
    text = "abslrp, gamma:gamma=0.1,epsilon=1e-6,random,captum.Occlusion:strides=3/4/4,show_progress=false,centre"
    assert split_names(text) == [
        "abslrp",
        "gamma:gamma=0.1,epsilon=1e-6",
        "random",
        "captum.Occlusion:strides=3/4/4,show_progress=false",
        "centre",
    ]


def test_methods_of_every_kind_have_names() -> None:
    model = network()

    def mine(x: Tensor, target: Tensor) -> Tensor:
        return x

    rules = rule_registry.get("epsilon")
    given = ["abslrp:delta=0.5", "random", mine, rules, relprop.Explainer(model, rules="gradient")]
    made = make_methods(given, MethodContext(model))
    assert list(made) == ["abslrp:delta=0.5", "random", "mine", "epsilon", "gradient"]
    assert made["abslrp:delta=0.5"].config["parameters"] == {"delta": 0.5, "signed": True}
    assert make_methods({"a": "zennit.EpsilonPlus"}, MethodContext(model))["a"].config["composite"] == "EpsilonPlus"
    assert make_methods("captum.IntegratedGradients:n_steps=8", MethodContext(model)).popitem()[1].config[
        "options"
    ] == {"n_steps": 8}


def test_options_that_json_can_not_say_are_described() -> None:
    method = CaptumMethod(network(), "IntegratedGradients", baselines=torch.ones(1, 3, 8, 8), n_steps=3)
    options = json.loads(json.dumps(method.config))["options"]
    assert options["n_steps"] == 3
    assert options["baselines"]["shape"] == [1, 3, 8, 8]
    assert len(options["baselines"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("methods", "kind", "message"),
    [
        ("abslrb", MethodError, "no method 'abslrb'; near names: abslrp"),
        ("wizardry", MethodError, r"a method is a rule set .*captum\.METHOD"),
        ("abslrp:gamma=1", ParameterError, "no parameter"),
        ("captum.IntegratedGradient", MethodError, "no attribution method .*near names: IntegratedGradients"),
        ("captum.Saliency:steps=8", MethodError, "no option 'steps'; it accepts: .*abs"),
        ("captum.LayerGradCam", MethodError, "needs layer=PATH"),
        ("captum.LayerGradCam:layer=9", MethodError, "the model has no module '9'"),
        ("grad-cam.GradCam", MethodError, "near names: .*GradCAM"),
        ("grad-cam.GradCAM:smooth=true", MethodError, "no option 'smooth'"),
        ("zennit.EpsilonFlat", MethodError, "no composite 'EpsilonFlat'; near names"),
        ("zennit.EpsilonPlus:canonizer=Nothing", MethodError, "no canonizer 'Nothing'"),
        ("zennit.EpsilonPlus:nonsense=1", MethodError, "nonsense"),
        ("random:seed=1", MethodError, "random has no option .seed."),
        ("maps:path=nowhere.npy", MethodError, "cannot read maps nowhere.npy"),
        ("maps:path=pyproject.toml", MethodError, "maps are in a .npy, .npz or .h5 file"),
        ("", MethodError, "no method to evaluate"),
        (["random", "random"], MethodError, "two methods are called 'random'"),
        ([lambda x, target: x], MethodError, "a method has no name: give a mapping"),
        ({"three": 3}, MethodError, "a method is a name, a rule set or a callable"),
    ],
)
def test_methods_that_are_none_say_so(methods: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make_methods(methods, MethodContext(network()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("captum.IntegratedGradient:n_steps=8", "near names: IntegratedGradients"),
        ("captum.Saliency:steps=8", "no option 'steps'"),
        ("grad-cam.GradCam", "near names: .*GradCAM"),
        ("grad-cam.GradCAM:smooth=true", "no option 'smooth'"),
        ("zennit.EpsilonFlat", "no composite 'EpsilonFlat'"),
        ("captum.Saliency:abs", "is not OPTION=VALUE"),
        ("maps:pth=maps.npy", "maps has no option 'pth'; it accepts: path, key"),
        ("random:seed=3", "random has no option 'seed'; it has none"),
    ],
)
def test_a_name_and_its_options_are_checked_without_a_model(name: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    ["captum.Saliency:abs=false", "captum.LayerGradCam:layer=3", "grad-cam.GradCAM:layer=3", "zennit.SmoothGrad"],
)
def test_a_name_with_its_options_passes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "package"),
    [("captum.Saliency", "captum"), ("grad-cam.GradCAM", "pytorch_grad_cam"), ("zennit.Gradient", "zennit")],
)
def test_a_missing_package_is_told_with_its_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in [module for module in list(sys.modules) if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf'needs {package}: pip install "relprop\[methods\]"'):
        make_methods(name, MethodContext(network()))


class Missing:
    """An import finder that has lost a package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_missing_rule_is_told_before_the_run(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0(x).mean(3).flatten(1)[:, :5]

    with pytest.raises(MissingRuleError, match="method abslrp: "):
        evaluate(Odd().eval(), pictures(8), "abslrp", tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()


# Controls and precomputed maps


def test_controls_are_those_of_gae() -> None:
    x = pictures(3)
    asked = Request(x, TARGET, (4, 4, 9), (0, 19, 3))
    made = make_methods("random,constant,centre", MethodContext(network(), seed=7))
    expected = [gae.random_map([i], (8, 8), seed=7, draw=state)[0] for i, state in ((4, 0), (4, 19), (9, 3))]
    assert torch.equal(made["random"].maps(asked), torch.stack(expected))
    assert torch.equal(made["constant"].maps(asked), gae.constant_map(3, (8, 8)))
    assert torch.equal(made["centre"].maps(asked), gae.centre_map(3, (8, 8)))


def written(folder: Path, suffix: str, maps: np.ndarray) -> Path:
    path = folder / f"maps{suffix}"
    if suffix == ".npy":
        np.save(path, maps)
    elif suffix == ".npz":
        np.savez(path, relevance=maps, other=np.zeros(3))
    else:
        with h5py.File(path, "w") as file:
            file["deep/attribution"] = maps
            file["labels"] = np.zeros(3)
    return path


@pytest.mark.sweep(every=3)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_precomputed_maps_are_scored_for_what_they_can_be_asked(tmp_path: Path, suffix: str) -> None:
    model, x = kept("plain"), pictures(9)
    path = written(tmp_path, suffix, gradient(model, x).numpy())
    found = evaluate(model, x, {"before": f"maps:path={path}", "now": "gradient"}, tmp_path / "run.h5")
    assert found.methods["before"].done == 9
    with h5py.File(tmp_path / "run.h5") as file:
        before, now = file["methods/before"], file["methods/now"]
        np.testing.assert_allclose(before["faithfulness"], now["faithfulness"], atol=1e-5)
        for name in ("robustness", "contrastiveness", "gae", "map_change"):
            assert np.isnan(before[name]).all()
        assert "can't be asked about masked states" in before["message"].asstr()[0]


def test_too_few_precomputed_maps_fail_for_the_samples_without(tmp_path: Path) -> None:
    path = written(tmp_path, ".npy", np.ones((6, 8, 8), np.float32))
    found = evaluate(kept("plain"), pictures(8), {"before": Precomputed(path)}, tmp_path / "run.h5")
    assert (found.methods["before"].done, found.methods["before"].failed) == (6, 2)
    assert "has 6 maps, none of sample" in found.methods["before"].failure


def test_files_without_maps_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.ones((2, 3, 3)), b=np.ones((2, 3, 3)))
    with pytest.raises(MethodError, match="say which array holds the maps, key=NAME; it has a, b"):
        Precomputed(tmp_path / "two.npz")
    assert Precomputed(tmp_path / "two.npz", key="b").config["array"] == "b"
    with pytest.raises(MethodError, match="no array 'c'"):
        Precomputed(tmp_path / "two.npz", key="c")
    np.save(tmp_path / "flat.npy", np.ones(4))
    with pytest.raises(RelpropError, match=r"maps are \(N, C, H, W\) or \(N, H, W\), not \(4,\)"):
        Precomputed(tmp_path / "flat.npy")
