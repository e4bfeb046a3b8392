"""What the file of an explanation holds, and the words that say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor

from relprop.rewrite.step import widen
from relprop.saving import Item
from rule_registry import BatchAxis

if TYPE_CHECKING:
    from relprop.explanation.explanation import Explanation


def archive_items(explanation: Explanation) -> dict[str, Item]:
    """Return the arrays of an explanation by name, each with a description."""
    seeds, several = explanation.seeds, len(explanation.relevances) > 1
    contrast = explanation.contrast is not None
    others = "all other classes" if explanation.contrast == "rest" else f"class {explanation.contrast}"
    kind = "relevance of the target" + (f" minus that of {others}" if contrast else "")
    items = {}
    for name, value in explanation.relevances.items():
        suffix = f":{name}" if several else ""
        where = f"at {name}, shaped like it"
        items[f"relevance{suffix}"] = Item(_array(value), f"{kind} {where}; {_samples(explanation, name)}")
        if contrast:  # else it would repeat the relevance
            words = f"relevance of the target, then of {others}, along axis 0; both {where}"
            items[f"seeds{suffix}"] = Item(_array(seeds[name]), f"{words}; {_samples(explanation, name, lead=1)}")
    items["output"] = Item(_array(explanation.output), "output of the model; samples along axis 0, then classes")
    if explanation.target is not None:
        items["target"] = Item(_array(explanation.target), "index of the class explained; samples along axis 0")
    for name, value in explanation.layer_calls.items():
        where = f"at the output of module {name}, shaped like it; {_samples(explanation, name)}"
        items[f"layer:{name}"] = Item(_array(value), f"{kind} {where}")
    return items


def _samples(explanation: Explanation, name: str, lead: int = 0) -> str:
    mark = explanation.axes.get(name, BatchAxis(0))
    words = f"no unit; samples along axis {mark.axis + lead}"
    if mark.merged:
        words += f", whose entries are ({mark.outer}, samples, {mark.factor}) flattened"
    return words


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = widen(tensor).cpu().numpy()
    return array
