"""Methods by name: ``abslrp``, ``captum.IntegratedGradients:n_steps=8``, ``random`` ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rule_registry
from relprop.assign.rule_names import choose_rules
from relprop.errors import near_names
from relprop.evaluation.methods.adapters.attention_rollout import AttentionRollout
from relprop.evaluation.methods.adapters.captum import CaptumMethod, check_captum
from relprop.evaluation.methods.adapters.grad_cam import GradCamMethod, check_grad_cam
from relprop.evaluation.methods.adapters.zennit import ZennitMethod, check_zennit
from relprop.evaluation.methods.base import Function, Method, MethodError
from relprop.evaluation.methods.controls import SUMMARIES, Control
from relprop.evaluation.methods.precomputed import Precomputed
from relprop.evaluation.methods.relprop_rules import RelpropMethod
from relprop.explainer import Explainer
from relprop.store import check_method_name
from rule_registry import RuleSet

if TYPE_CHECKING:
    from relprop.models import Classifier


@dataclass(frozen=True)
class MethodContext:
    """What named methods are made for.

    Parameters
    ----------
    model : nn.Module, ExportedProgram or callable
        The model.
    seed : int
        Of the run.
    classifier : Classifier, optional
        Its normalisation bounds the input, for rule sets that need bounds.
    """

    model: Any
    seed: int = 0
    classifier: Classifier | None = None


Maker = Callable[..., Method]
"""From a `MethodContext`, and options by keyword, to a method."""
LIBRARIES: dict[str, Callable[..., Any]] = {"captum": CaptumMethod, "grad-cam": GradCamMethod, "zennit": ZennitMethod}
"""Makers of ``LIBRARY.METHOD``: of a model, the name of the method, and options."""
CHECKS: dict[str, Callable[..., Any]] = {"captum": check_captum, "grad-cam": check_grad_cam, "zennit": check_zennit}
"""What refuses a name of the library's methods, and its options."""


@dataclass(frozen=True)
class NamedMethod:
    """A method that has a name of its own, beside rule sets and those of libraries.

    Parameters
    ----------
    make : Maker
        Makes it.
    summary : str
        What it is, for lists.
    options : mapping of str to str
        What ``make`` takes by keyword, and what may stand there, for lists.
    """

    make: Maker
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)


NAMED: dict[str, NamedMethod] = {
    **{
        control: NamedMethod(lambda context, control=control: Control(control, context.seed), summary)
        for control, summary in SUMMARIES.items()
    },
    "attention-rollout": NamedMethod(
        lambda context: Function(AttentionRollout(context.model)),
        "of Vision Transformers: attention of all blocks, multiplied",
    ),
    "maps": NamedMethod(
        lambda context, **options: Precomputed(**options),
        "maps computed before: .npy, .npz or .h5",
        {"path": "FILE", "key": "NAME"},
    ),
}
KINDS = (
    "a rule set (relprop rules lists them)",
    *(name for name in NAMED if name != "maps"),
    *(f"{library}.METHOD" for library in LIBRARIES),
    "maps:path=FILE",
)


def make_methods(methods: Any, context: MethodContext) -> dict[str, Method]:
    """Make methods of what the user gave.

    Parameters
    ----------
    methods : mapping, sequence, str, or a single method
        Names in the file -> methods, or methods that have names of their own: what `make_method` takes. A text may
        hold several, separated by commas.
    context : MethodContext
        What they are made for.

    Raises
    ------
    MethodError, StoreError
        One is unknown, has no name or one that the file can't hold, or two have the same.
    """
    if isinstance(methods, str):
        methods = split_names(methods)
    elif not isinstance(methods, Mapping | Sequence):
        methods = [methods]
    pairs = list(methods.items()) if isinstance(methods, Mapping) else [(name_of(method), method) for method in methods]
    if not pairs:
        raise MethodError("no method to evaluate")
    made: dict[str, Method] = {}
    for name, method in pairs:
        check_method_name(name)
        if name in made:
            raise MethodError(f"two methods are called {name!r}: give a mapping from names to methods")
        made[name] = make_method(method, context)
    return made


def make_method(method: Any, context: MethodContext) -> Method:
    """Make a method of a name, a rule set, an `Explainer`, or any callable ``(x, target) -> relevance``."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return named_method(method, context)
    if isinstance(method, RuleSet):
        return RelpropMethod(Explainer(context.model, rules=method))
    if isinstance(method, Explainer):
        return RelpropMethod(method)
    if callable(method):
        return Function(method)
    raise MethodError(f"a method is a name, a rule set or a callable (x, target) -> relevance, not {method!r}")


def named_method(text: str, context: MethodContext) -> Method:
    """Make the method that ``NAME`` or ``NAME:OPTION=VALUE,...`` stands for.

    Raises
    ------
    MethodError, MissingExtraError, ParameterError
    """
    check_name(text)
    name, _, rest = text.partition(":")
    if name in rule_registry.names():
        classifier = context.classifier
        scale = () if classifier is None else (classifier.mean, classifier.std)
        return RelpropMethod(Explainer(context.model, rules=choose_rules(text, *scale)))
    options = parse_options(text, rest)
    library, _, kind = name.partition(".")
    try:
        if library in LIBRARIES and kind:
            return Function(LIBRARIES[library](context.model, kind, **options))
        return NAMED[name].make(context, **options)
    except TypeError as error:
        raise MethodError(f"{text}: {str(error).partition('() ')[2] or error}") from error


def check_name(text: str) -> None:
    """Refuse a name that stands for no method, or options that it does not have, before a model is loaded.

    Raises
    ------
    MethodError, MissingExtraError, ParameterError
    """
    name, _, rest = text.partition(":")
    library, _, kind = name.partition(".")
    if name in rule_registry.names():
        choose_rules(text)
    elif name in NAMED:
        _check_options(name, parse_options(text, rest))
    elif library in LIBRARIES and kind:
        CHECKS[library](kind, parse_options(text, rest))
    else:
        near = near_names(name, [*rule_registry.names(), *NAMED]) or f"; a method is {', '.join(KINDS)}"
        raise MethodError(f"there is no method {name!r}{near}")


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    accepted = NAMED[name].options
    if unknown := next((option for option in options if option not in accepted), None):
        choices = f"it accepts: {', '.join(accepted)}" if accepted else "it has none"
        raise MethodError(f"{name} has no option {unknown!r}; {choices}")


def name_of(method: Any) -> str:
    """Return the name of a method that was given without one; of a text that holds slashes, with ``|`` for these."""
    if isinstance(method, str):
        return method.replace("/", "|")
    if isinstance(method, RuleSet):
        return method.name
    if isinstance(method, Explainer):
        return method.rules if isinstance(method.rules, str) else method.rules.name
    config = getattr(method, "config", None) or {}
    name = config.get("method", getattr(method, "__name__", None))
    if not isinstance(name, str) or name == "<lambda>":
        raise MethodError(f"a method has no name: give a mapping from names to methods, as {{'mine': {method!r}}}")
    return name


def split_names(text: str) -> list[str]:
    """Split at commas; one in front of ``OPTION=VALUE`` belongs to the method's options.

    Examples
    --------
    >>> split_names("abslrp,gamma:gamma=0.1,epsilon=1e-6,random")
    ['abslrp', 'gamma:gamma=0.1,epsilon=1e-6', 'random']
    """
    names: list[str] = []
    for piece in filter(None, (part.strip() for part in text.split(","))):
        if names and "=" in piece and ":" not in piece.partition("=")[0]:
            names[-1] += f",{piece}" if ":" in names[-1] else f":{piece}"
        else:
            names.append(piece)
    return names


def parse_options(text: str, options: str) -> dict[str, Any]:
    """Read ``OPTION=VALUE,...``: numbers, true and false, ``1/2/3`` for several numbers, else words.

    Examples
    --------
    >>> parse_options("", "n_steps=8,layer=blocks.6,eigen_smooth=true,strides=3/4/4")
    {'n_steps': 8, 'layer': 'blocks.6', 'eigen_smooth': True, 'strides': (3, 4, 4)}
    """
    found: dict[str, Any] = {}
    for setting in filter(None, options.split(",")):
        key, equals, value = setting.partition("=")
        if not equals or key.strip() in found:
            raise MethodError(f"{text}: {setting!r} is not OPTION=VALUE, or names its option again")
        found[key.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    numbers = [_number(part) for part in text.split("/")]
    if any(number is None for number in numbers):
        return text
    return tuple(numbers) if len(numbers) > 1 else numbers[0]


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
